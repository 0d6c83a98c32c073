"""The ways to keep labels that are compared: settings of codecs, and layouts of others.

An arm whose codec or setting this softpack does not have is left out, and the run says so.

Bytes are those of one token. Of a file they are its marginal ones: codes, index and checksums, without what all rows
share. Where others keep the same numbers in another layout, it is their bytes that count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DISTILLKIT = {
    344: {"k": 128, "exact_k": 16, "polynomial_terms": (0, 1, 2, 3, 4, "sqrt")},
    127: {"k": 50, "exact_k": 1, "polynomial_terms": (0, 1, "sqrt")},
}  # its README's "recommended" and "budget": bfloat16, float32 terms, no residuals; bytes at 18 bits an id
RS_KD_BYTES = 3  # of a class that was drawn: 17 bits of its id and 7 of its count


@dataclass(frozen=True)
class Arm:
    """One way to keep labels.

    Args:
        name: for people.
        codec: id; "dense" for the teacher's logits themselves, "hard" for the next token alone, "distillkit" for
            its own program. "head" is given hidden states, all others logits.
        settings: of the codec.
        layout: whose bytes are counted: "file", "megatron", "rs-kd", or "fixed" for `n_bytes`.
        n_bytes: of a token in a layout of fixed size.
        tail: what students make of the mass of the tokens that were not kept. "zero": they are taken to have none.
            "ghost": it is the mass of all of them together.
        epochs: that students are trained for, where not as long as all others.
        ours: whether it is softpack's own.
    """

    name: str
    codec: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    layout: str = "file"
    n_bytes: float = 0.0
    tail: str = "zero"
    epochs: int = 0
    ours: bool = False

    @property
    def slug(self) -> str:
        """The name of its files: arms that differ in `tail` or `layout` alone share them."""
        said = "".join(f"-{name}-{value}" for name, value in sorted(self.settings.items()))
        return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in self.codec + said)

    @property
    def has_file(self) -> bool:
        """Whether its labels lie in a file."""
        return self.codec not in ("dense", "hard", "distillkit")


def _topk(name: str, k: int, tail: str = "uniform", **more: Any) -> Arm:
    return Arm(name, "topk", {"k": k, "tail": tail}, **more)


def _set(k: int, tail: str = "ghost") -> Arm:
    settings = {"k": k, "ids": "set", "value": "steps", "tail": "mass", "tail_temperatures": "1,2"}
    said = {"ghost": "exact tail", "zero": "renormalised"}[tail]
    return Arm(f"topk {k}, ids as a set, {said}", "topk", settings, tail=tail, ours=True)


def _sample(draws: int) -> Arm:
    return Arm(f"sample, {draws} draws", "sample", {"draws": draws}, ours=True)


def _distillkit(n_bytes: int, which: str) -> Arm:
    return Arm(f"DistillKit {which}", "distillkit", DISTILLKIT[n_bytes], layout="fixed", n_bytes=n_bytes)


def _head(bits: int, search: int = 3, **more: Any) -> Arm:
    said = "" if search == 3 else f", {search} round{'s' * (search != 1)} of search"
    said += "".join(f", {name} {value}" for name, value in more.items())
    return Arm(f"head {bits} bits{said}", "head", {"bits": float(bits), "search": search, **more}, ours=True)


def _klt(bits: int, search: int = 3, weighted: bool = True) -> Arm:
    said = "" if search else ", no search" if weighted else ", plain"
    settings = {"bits": float(bits), "temperatures": "1", "search": search, "weighted": weighted}
    return Arm(f"klt {bits} bits{said}", "klt", settings, ours=True)


def _vqae(slots: int) -> Arm:
    settings = {"slots": slots, "k": 256, "temperatures": "1", "steps": 400}  # a second and a half each
    return Arm(f"vqae {8 * slots} bits", "vqae", settings, ours=True)


DENSE = Arm("dense logits", "dense", layout="fixed", n_bytes=4 * 262_144)
HARD = Arm("hard labels", "hard")
EARLY = Arm("hard labels, half of the epochs", "hard", epochs=6)
SAMPLE = {"draws": 24}  # some 12 classes, as RS-KD has
RS_KD = Arm("RS-KD, 24 draws", "sample", SAMPLE, layout="rs-kd")
MEGATRON = _topk("Megatron top-128", 128, layout="megatron")

FIDELITY = (
    Arm("raw fp16", "raw", {"dtype": "fp16"}),
    Arm("quantize 4 bits", "quantize", {"bits": 4}),
    Arm("lowrank 64 x 8 bits", "lowrank", {"rank": 64, "bits": 8}),
    *(_topk(f"fp16 top-{k}, uniform tail", k) for k in (50, 128, 256)),
    MEGATRON,
    _distillkit(344, "recommended"),
    _distillkit(127, "budget"),
    Arm("polyk, DistillKit's recommended", "polyk", {"k": 128}),
    Arm("polyk, DistillKit's budget", "polyk", {"k": 50, "exact_k": 1, "terms": "0,1,sqrt"}),
    RS_KD,
    *(_sample(draws) for draws in (24, 40, 92)),
    *(_set(k) for k in (16, 45, 64, 128)),
    _vqae(64),
    _klt(480, 0, weighted=False),
    _klt(480, 0),
    *(_klt(bits) for bits in (480, 912)),
    *(_head(bits, 0) for bits in (480, 912)),
    _head(480, temperatures="1,2"),
    *(_head(bits) for bits in (280, 480, 912, 1840)),
)  # fmt: skip; other documents then take 38, 65, 124 and 244 bytes

STUDENTS = (
    DENSE,
    HARD,
    EARLY,
    _head(480),
    *(_set(45, tail) for tail in ("zero", "ghost")),  # of 64 bytes, as one of the samples
    Arm("DistillKit recommended", "distillkit", DISTILLKIT[344], layout="fixed", n_bytes=344),
    RS_KD,
    _sample(92),
)
