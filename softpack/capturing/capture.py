"""Capture what a language model says of sequences straight into a file: what it says is coded as it comes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softpack.capturing.asking import SLICE_VALUES, Asker
from softpack.capturing.batches import plan_batches
from softpack.capturing.first import n_first
from softpack.capturing.reading import read_sequences
from softpack.capturing.run import Captured, Run
from softpack.capturing.teacher import LanguageTeacher
from softpack.codecs.abc import Codec, Stage
from softpack.codecs.registry import codec_of_matrix, make_codec
from softpack.container.create import check_notes
from softpack.container.forcing import check_forced
from softpack.container.stopped import alone, make_way, make_whole, unfinished_of
from softpack.errors import CodecError, DataError
from softpack.fingerprints import teacher_fingerprint, tokenizer_fingerprint
from softpack.records import LabelSpec
from softpack.relabelling.labeller import PROBED
from softpack.sources.encoding import check_device

BATCH_TOKENS = 8192


def capture(
    model: Any,
    sequences: Any,
    out: str | os.PathLike[str],
    codec: str = "topk",
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    forced: Sequence[int] = (),
    notes: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    force: bool = False,
    restart: bool = False,
    stage: Stage | None = None,
    **settings: Any,
) -> None:
    """Write what a language model says after every token of sequences into a new `.spk` file.

    A sequence is an item, and a sequence of L tokens has L - 1 rows: row v is what the model says after tokens 0 to v.
    One of a single token, or of none, is kept and has no row. The file holds all tokens, bound to the rows by a hash,
    ln of the sum of exp(logits) of each row (`log_z`), and fingerprints of model, tokenizer and data.

    Interrupted, it goes on where it was when it is called again with the same model, sequences and settings.

    Args:
        model: a causal language model of transformers, in the dtype and on the device that it has; or anything that is
            called as `model(input_ids=..., attention_mask=...)`, int64 [B, L] each, and gives logits [B, L, V].
        sequences: lists, arrays or tensors of token ids; texts, or dictionaries with `input_ids` or `text`; or the path
            of a .txt, .jsonl, .npz, .npy or .parquet of them (`softpack.capturing.reading` says how).
        out: of the file.
        codec: id; "head" codes the last hidden states, for models whose logits are a matrix times these.
        tokenizer: of texts, and for the fingerprint; needed for texts alone.
        max_length: tokens of a sequence at most; what is behind is left out.
        batch_tokens: tokens that the model sees at once, padding included; fewer where all logits of a batch would be
            too many, as of a model that cannot be taken apart.
        forced: ids of tokens whose log-probabilities are kept exactly, whatever the codec makes of them.
        notes: for people, kept beside versions and seed.
        seed: of the fit, and of which rows it takes.
        device: where the model is moved to, and the codec works; None takes the model's own.
        force: overwrite `out`.
        restart: throw away what an interrupted run left.
        stage: makes a progress bar for each stage of the work.
        settings: the codec's own, such as `k=64`, and `target_bits=512`; for "head" `matrix_inside=False`, which leaves
            the output matrix out of the file and names it by its hash.

    Raises:
        DataError: the sequences do not suit the model, it gives NaN, or an interrupted run was another.
        CodecError: an unknown codec or setting, or one that cannot code these rows.
        ExistsError: the file is there and `force` is not given.
    """
    if type(batch_tokens) is not int or batch_tokens < 1:
        raise DataError(f"batch_tokens is {batch_tokens!r}; expected a whole number from 1")
    check_notes(notes, out, "encoding", "teacher")
    found, path = read_sequences(sequences, tokenizer, max_length), Path(out)
    if not found.n_rows:
        raise DataError(
            f"{path}: there is no row to capture, as none of the {len(found)} sequences has two tokens; a row is what "
            "the teacher says of the next token"
        )
    teacher = LanguageTeacher(model, device)
    check_device(teacher.device)
    with alone(path), teacher.at_work():
        make_way(path, unfinished_of(path), force)
        make_whole(unfinished_of(path), restart)
        probed_L = found[int(np.argmax(found.lengths_N >= 2))]
        found.check_vocabulary(teacher.n_inputs or (1 << 31), "the teacher")
        found.check_longest(teacher.longest or (1 << 31), "the teacher")
        probed_LV = teacher.probe(probed_L)
        found.check_vocabulary(teacher.n_inputs, "the teacher")
        spec, matrix_VH = LabelSpec(teacher.classes), None
        if codec == "head":
            matrix_VH = teacher.matrix(probed_L)
            spec = LabelSpec(matrix_VH.shape[1], "hidden")
        n_rows = n_first(_checked_codec(codec, spec, settings, matrix_VH))
        asker = Asker(teacher, found, check_forced(forced, teacher.classes, str(path)), spec)
        if teacher.parts is None:  # all logits of a batch are there at once
            batch_tokens = max(1, min(batch_tokens, SLICE_VALUES // teacher.classes))
        captured = Captured(
            codec, settings, _fingerprints(model, tokenizer, found.fingerprint, stage),
            "" if hasattr(model, "state_dict") else _probe(probed_LV), notes or {}, seed,
        )  # fmt: skip
        batches, device = plan_batches(found.lengths_N, batch_tokens), str(teacher.device)
        Run(path, asker, batches, captured, n_rows, matrix_VH, device, force, stage).capture()


def _checked_codec(codec: str, spec: LabelSpec, settings: Mapping[str, Any], matrix_VH: Tensor | None) -> Codec:
    """Return the codec, not fitted, and refuse one that cannot code single rows, before the teacher is asked."""
    given = dict(settings)
    target_bits = given.pop("target_bits", None)
    if matrix_VH is not None:
        inside = given.pop("matrix_inside", True)
        return codec_of_matrix(
            codec, matrix_VH, spec.classes, given, target_bits, inside=inside, where="capture"
        )
    made = make_codec(codec, spec, given, target_bits)
    if made.takes_context:
        raise CodecError(
            f"codec {codec} codes rows given prototypes of their items, which positions of a sequence do not share; "
            "leave context out"
        )
    return made


def _fingerprints(model: Any, tokenizer: Any, data: str, stage: Stage | None) -> dict[str, str]:
    found = {}
    if hasattr(model, "state_dict"):
        if stage is None:
            found["teacher"] = teacher_fingerprint(model)
        else:
            with stage("hashing the teacher", "byte") as bar:
                found["teacher"] = teacher_fingerprint(model, lambda done, total: bar(done, total, ""))
    if tokenizer is not None:
        found["tokenizer"] = tokenizer_fingerprint(tokenizer)
    return found | {"data": data}


def _probe(logits_LV: Tensor) -> str:
    return ",".join(f"{number:.5g}" for number in logits_LV[:PROBED, :PROBED].flatten().tolist())
