"""How far labels are from the teacher's on text of other documents than codecs were fitted to."""

from __future__ import annotations

import math
import resource
import time
from statistics import fmean
from typing import Any

from common import seconds
from torch import Tensor

from language.arms import Arm
from language.decoded import Rows, bytes_a_token, reader
from language.room import Room
from language.teacher import logits
from softpack.codecs.spaces import to_logits
from softpack.codecs.sparse import SparseRows
from softpack.eval.fidelity import FidelityMeter
from softpack.records import LabelSpec

TEMPERATURES = (1.0, 2.0)
TIMED = 4  # of so many sequences the product of one is timed


def compare(room: Room, arm: Arm, n_sequences: int) -> dict[str, Any]:
    """Return a row of figures for an arm, of so many sequences of the test."""
    n = len(room.tokens("test"))
    which = list(range(0, n, -(-n // n_sequences)))
    fit_s = room.fit_seconds(arm) if arm.has_file else math.nan
    is_there = not arm.has_file or room.path(arm, "test").is_file()
    write_s = math.nan if is_there else seconds(lambda: room.write([arm], "test", which))
    read, spec = reader(arm, room, "test")
    meter = FidelityMeter(TEMPERATURES)
    read_s, product_s = [], []
    for number, hidden_VD, logits_VC in room.blocks("test", which, f"fidelity: {arm.name}"):
        begun = time.perf_counter()
        rows = read(number, logits_VC)
        read_s.append(time.perf_counter() - begun)
        if number in which[::TIMED]:
            product_s.append(seconds(lambda: logits(hidden_VD, room.output)))  # noqa: B023
        meter.update(logits_VC, _logits(rows, spec))
    row = _row(arm, meter, *bytes_a_token(arm, room, "test"))
    ms, product_ms = 1e3 / row["rows"], 1e3 * fmean(product_s) / room.hidden("test").shape[1]
    # DistillKit's rows are made as they are read, and no file says how fast that would be.
    read_ms = ms * sum(read_s) if arm.has_file else math.nan
    times = {"fit_s": fit_s, "write_ms": ms * write_s, "read_ms": read_ms, "product_ms": product_ms}
    return row | times | {"peak_GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}  # so far


def _logits(rows: Rows, spec: LabelSpec) -> Tensor:
    return to_logits(rows.dense(), rows.spec) if isinstance(rows, SparseRows) else to_logits(rows, spec)


def _row(arm: Arm, meter: FidelityMeter, n_bytes: float, shared: float) -> dict[str, Any]:
    found = meter.result()
    at_1, at_2 = (found.temperatures[T] for T in TEMPERATURES)
    return {
        "arm": arm.name, "ours": int(arm.ours), "codec": arm.codec, "settings": _said(arm), "layout": arm.layout,
        "rows": found.rows, "bytes": n_bytes, "shared_MB": shared, "kl1": at_1.kl_mean, "kl1_p99": at_1.kl_p99,
        "kl2": at_2.kl_mean, "top1": found.top1_agreement,
    }  # fmt: skip


def _said(arm: Arm) -> str:
    return " ".join(f"{name}={value}" for name, value in arm.settings.items())
