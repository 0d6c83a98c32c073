"""What losses take over a vocabulary of 262,144, forwards and backwards, beside the plain formulas in torch.

64 rows of a student's logits in bfloat16, at T=1, of random numbers, which cost what real ones do. `peak_bytes` is the
most that torch holds at once of what it takes meanwhile: the student's gradient, which nobody does without, is 32 MiB
of it. The rows over 1000 classes, in float32, are what students of images are trained by.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import Results, Spread, options, turns, use_threads

from softpack import losses
from softpack.codecs.sparse import SparseRows
from softpack.records import LabelSpec

Label = Tensor | SparseRows
LOSSES: dict[str, Callable[[Tensor, Label], Tensor]] = {
    "kl": losses.kl,
    "soft_cross_entropy": losses.soft_cross_entropy,
    "reverse_kl": losses.reverse_kl,
    "js": losses.js,
}
K, N_DRAWS, N_DISTINCT = 64, 50, 12
TURNS = 5


def main() -> None:
    """Measure and write the table."""
    given = options("language/losses", __doc__ or "")
    use_threads(given.threads)
    results = Results(given)
    generator = torch.Generator().manual_seed(given.seed)
    shapes = [(64, 2048 if given.quick else 262_144, torch.bfloat16), (256, 1000, torch.float32)]
    for n_rows, n_classes, dtype in shapes:
        student_BC = torch.randn(n_rows, n_classes, generator=generator).mul_(3).to(dtype).requires_grad_()
        label_BC = torch.randn(n_rows, n_classes, generator=generator).mul_(4)
        kinds = _labels(label_BC, generator) if dtype == torch.bfloat16 else {"whole rows": label_BC}
        for kind, label in kinds.items():
            for name in list(LOSSES)[: 2 if kind.endswith("drawn") else None]:
                _measure(results, name, kind, student_BC, label, 1 if given.quick else TURNS)


def _labels(label_BC: Tensor, generator: torch.Generator) -> dict[str, Label]:
    """Return labels of every kind."""
    log_p_BC = label_BC.log_softmax(1)
    spec = LabelSpec(label_BC.shape[1], "log_probs")
    values_BK, ids_BK = log_p_BC.topk(K)
    tail_B = torch.log1p(-values_BK.exp().sum(1))
    n_others = torch.tensor(spec.classes - K)
    drawn_BK = torch.stack([_distinct(p_C, generator) for p_C in log_p_BC.exp()])
    shares_BK = log_p_BC.gather(1, drawn_BK).log_softmax(1)
    return {
        "whole rows": label_BC.bfloat16(),
        f"top {K}, equal shares": SparseRows(spec, ids_BK, values_BK, fill_B=tail_B - n_others.log()),
        f"top {K}, tail": SparseRows(spec, ids_BK, values_BK, tails={1.0: tail_B}),
        f"{N_DISTINCT} drawn": SparseRows(spec, drawn_BK, shares_BK, sampled=True),
    }


def _distinct(p_C: Tensor, generator: torch.Generator) -> Tensor:
    """Return classes that are drawn, as many of them as labels are to have."""
    return torch.multinomial(p_C, N_DRAWS, generator=generator)[:N_DISTINCT]


def _measure(results: Results, name: str, kind: str, student_BC: Tensor, label: Label, n_turns: int) -> None:
    """Add a row each of softpack and of the plain formula, which take turns."""
    ways = {
        "softpack": lambda: LOSSES[name](student_BC, label),
        "plain torch": lambda: _plain(name, student_BC, label),
    }

    def step(way: Callable[[], Tensor]) -> int:
        student_BC.grad = None
        way().backward()
        return len(student_BC)

    steps = {how: lambda _, way=way: step(way) for how, way in ways.items()}
    found = turns(steps, 0.0 if student_BC.shape[1] > 1000 else 0.2, n_turns)
    for how, way in ways.items():
        student_BC.grad = None
        results.add(
            loss=name, labels=kind, n_rows=len(student_BC), classes=student_BC.shape[1],
            student=str(student_BC.dtype).removeprefix("torch."), how=how,
            **Spread.of([1e3 * len(student_BC) / rate for rate in found[how]]).columns("ms"),
            peak_bytes=_peak_bytes(lambda way=way: step(way)),
        )  # fmt: skip


# -- plain torch -------------------------------------------------------------------------------------------


def _plain(name: str, student_BC: Tensor, label: Label) -> Tensor:
    """Return the loss by the formula that one writes; of sparse labels, of the classes that were kept if that does."""
    log_q, log_p = student_BC.float().log_softmax(1), label
    if isinstance(label, SparseRows) and label.fill_B is not None:
        log_p = label.dense()
    elif isinstance(label, SparseRows):
        log_q, log_p = log_q.gather(1, label.ids_BK), label.log_probs_BK
        if not label.sampled:
            ghost = torch.log1p(-log_q.exp().sum(1, keepdim=True).clamp_max(1 - 1e-7))
            log_q = torch.cat([log_q, ghost], 1)
            log_p = torch.cat([log_p, label.tails[1.0][:, None]], 1)
    log_p = log_p.float().log_softmax(1)
    if name == "kl":
        return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    if name == "reverse_kl":
        return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
    if name == "soft_cross_entropy":
        return -(log_p.exp() * log_q).sum(1).mean()
    log_m = torch.logaddexp(log_p, log_q) - torch.tensor(2.0).log()
    terms = [F.kl_div(log_m, log_a, log_target=True, reduction="batchmean") for log_a in (log_p, log_q)]
    return sum(terms) / 2


def _peak_bytes(work: Callable[[], object]) -> int:
    """Return the most that torch holds at once of what it takes while this works."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        work()
    events = measured.profiler.kineto_results.events()
    held = most = 0
    for _, n_bytes in sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    ):
        held += n_bytes
        most = max(most, held)
    return most


if __name__ == "__main__":
    main()
