"""Write the codes of a file anew, in whole tiles, without decoding them."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch

from softpack.container.blockfile import BlockFile
from softpack.container.mixing import mix_columns
from softpack.container.reader import Labels
from softpack.container.tile_writer import TileWriter, choose_tile, make_streams, most_rows, write_model
from softpack.errors import DataError
from softpack.format.header import Header
from softpack.format.streams import FORCED

REPACK_ROWS = 1 << 14


def repack(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    replay: bool = True,
    stages: int | None = None,
    force: bool = False,
    counted: Callable[[int, int], None] | None = None,
) -> None:
    """Write the same labels into a new file: one commit, tiles that are whole, the encoder left out.

    Corrections, and the promise that they keep, go with all stages; without the last ones they are left out.

    Args:
        path: of the file to read.
        out: of the file to write.
        replay: keep the replay columns.
        stages: keep the codes of this many stages alone; all by default.
        force: overwrite `out`.
        counted: is told (rows done, rows in all).

    Raises:
        SoftpackError: a file refuses.
    """
    labels = Labels(path, stages)
    model, old = labels.model.first_stages(labels.n_stages), labels.file.header
    codec = model.codec
    items, views, _ = labels.shape
    item_columns = {n: labels.item_column(n) for n in labels.item_columns if replay or n == "target"}
    columns = labels.columns if replay and old.stream("replay") else ()
    recipe = old.recipe if replay else None
    is_mixed = old.stream("mix") is not None or "mix_item" in labels.columns
    if model.degree and not replay:
        raise DataError(
            f"{labels.file.name}: labels are coded given where their views look, which the replay columns say; keep "
            "them, or encode anew from the labels' source with --no-replay"
        )
    is_drawn = recipe is not None and "mix_item" in recipe.columns
    keeps_mix = model.prototypes is not None and is_mixed and "mix_item" not in columns and not is_drawn
    promised = labels.promise
    streams = make_streams(
        model, columns, tuple(item_columns), keeps_mix, promised is not None, len(labels.forced_tokens)
    )
    tile = choose_tile(streams, most_rows(streams, labels.spec.classes), items, views)
    config = codec.get_config() if stages else old.config
    header = Header(
        old.codec_id, config, old.takes, old.gives, *tile, streams, old.made_by, old.context, promised, recipe,
        old.images if replay else {}, old.fingerprints, old.forced,
    )  # fmt: skip
    file = BlockFile(out, force)
    try:
        file.begin(header.to_bytes(), max(header.minor, model.minor))
        write_model(file, model, keep_encoder=False)
        tiles = TileWriter(file, model, header, items, views, torch.device("cpu"))
        if model.prototypes is not None:
            tiles.write_items(labels.prototype_codes)
        for start in range(0, labels.n_rows, REPACK_ROWS):
            stop = min(start + REPACK_ROWS, labels.n_rows)
            item, view = labels.cells(np.arange(start, stop))
            codes = labels.stored_codes(item, view)
            if keeps_mix:
                codes |= mix_columns(labels.weighing.mixing(item, view))
            if labels.forced_tokens:
                codes[FORCED.name] = labels.forced(item, view).numpy()
            columns_B = labels.replay(item, view) if columns else {}
            tiles.add_codes(item, view, codes, columns_B, labels.corrections(item, view))
            if counted is not None:
                counted(stop, labels.n_rows)
        tiles.flush()
        if item_columns:
            tiles.write_items(item_columns)
        tiles.presence.check_named()
        tiles.commit()
        file.close()
    except BaseException:
        file.abandon()
        raise
