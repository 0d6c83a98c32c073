"""HALD's label sets: `epoch_0.tar` and so on, each a list of batches as `fkdmix` describes (arXiv:2512.15647).

Labels are probabilities, at a temperature that no file says. `sampler_indices_dict.pt` has the items of each epoch.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from softpack.errors import DataError
from softpack.records import LabelSpec
from softpack.sources.peers.fkdmix import rows_of
from softpack.sources.peers.given import Given, need
from softpack.sources.peers.listed_files import Listed, Numbered, open_listed
from softpack.sources.peers.orders import ListedOrder
from softpack.sources.peers.row_files import RowFiles, Rows
from softpack.sources.pickles.pool import PicklePool

INDEX = "sampler_indices_dict.pt"


def open_hald(path: Path, given: Given) -> RowFiles:
    """Open a set of HALD.

    Raises:
        DataError: it is none, an epoch is missing, or it does not say its temperature and nobody does.
    """
    found = Numbered.of(path, "epoch_", INDEX)
    need(
        path,
        {
            "at which temperature probabilities were taken (--source-temperature T; 20 if HALD's script was not told "
            "another)": given.temperature is None
        },
    )
    with PicklePool(1) as pool:
        lists = pool.read(path / INDEX)
    order = ListedOrder(path / INDEX, None if given.folder is None else len(given.folder), lists)
    view_of = {epoch: epoch for epoch in order.numbers}
    n_views = 1 + max(order.numbers, default=-1)
    listed = Listed(order.n_items, n_views, view_of, order.items, np.array(list(found.names)), order.how)
    spec = partial(LabelSpec, space="probs", temperature=given.temperature or 1.0)
    return open_listed(found, listed, given, partial(_rows, replay=given.replay), spec)


def _rows(found: Any, item_B: np.ndarray | None, replay: bool) -> Rows:
    """Return the rows of one epoch."""
    if not isinstance(found, list) or not found or item_B is None:
        raise DataError(f"holds a {type(found).__name__}; expected a list of batches, as HALD writes it")
    parts: list[Rows] = []
    start = 0
    for number, batch in enumerate(found):
        try:
            parts.append(rows_of(batch, item_B[start:], replay=replay))
        except DataError as error:
            raise DataError(f"batch {number}: {error}") from None
        start += len(parts[-1].labels_BC)
        if parts[-1].columns.keys() != parts[0].columns.keys():
            raise DataError(
                f"batch {number}: has {', '.join(parts[-1].columns)}; expected the columns of batch 0"
            )
    return Rows(
        np.concatenate([part.labels_BC for part in parts]),
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
    )
