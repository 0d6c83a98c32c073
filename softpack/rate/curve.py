"""Curves of rate over distortion: every codec at several rates, as files that are written, weighed and read again."""

from __future__ import annotations

import csv
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softpack.codecs.spaces import centred_logits
from softpack.container.ledger import ledger
from softpack.container.reader import Labels
from softpack.entropy import ans
from softpack.errors import CodecError, DataError
from softpack.eval.fidelity import fidelity
from softpack.rate.bound import Spectrum, gaussian_bound
from softpack.rate.control import LEAST_VIEWS, SEARCH, full_steps, width
from softpack.rate.shares import Shares, shares
from softpack.rate.trial import degrees_worth
from softpack.records import HIDDEN, TEMPERATURES
from softpack.sources.base import Source
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.learning import Learned, learn
from softpack.sources.replacing import replacing

CODECS = ("raw", "quantize", "topk", "lowrank", "klt", "vqae")  # the fast ones first: a run may be stopped
RATES = (8, 16, 32, 64, 128, 256, 400)  # bits a label, for codecs that can be had at any
RATES_OF = {"vqae": (16, 32, 64, 128, 256)}  # of codecs that take minutes to train
BASELINES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("FKD smoothing, k=5", "topk", {"k": 5, "tail": "uniform"}),
    ("FKD smoothing, k=10", "topk", {"k": 10, "tail": "uniform"}),
    ("LPQLD MR-10", "topk", {"k": 10, "tail": "zero"}),
    ("LPQLD MR-50", "topk", {"k": 50, "tail": "zero"}),
    ("LPQLD MR-100", "topk", {"k": 100, "tail": "zero"}),
    ("TinyViT top-100", "topk", {"k": 100, "tail": "uniform"}),
    ("top-20", "topk", {"k": 20, "tail": "uniform"}),
    ("top-50", "topk", {"k": 50, "tail": "uniform"}),
    ("int4", "quantize", {"bits": 4}),
    ("int8", "quantize", {"bits": 8}),
    ("fp16", "raw", {"dtype": "fp16"}),
)
CONTEXTS = {None: "", 0: " with context", 1: " with context by crop", 2: " with context by crop, degree 2"}
BOUND_ROWS = 1 << 15
ENTROPY_ROWS = 1 << 16
TEXTS = ("source", "curve", "codec", "asked_bits")
AT = re.compile(r"kl_[^_]+")


@dataclass(frozen=True)
class Case:
    """One point of a curve.

    Args:
        curve: that it belongs to; a named baseline is a curve of one point.
        codec_id: of the codec.
        settings: of the codec.
        asked_bits: marginal bits a label; None where the settings say it.
        shared: of these, what codes and prototypes are to take.
        degree: of the functions of crops that an item has a prototype for each of; 0: one prototype.
    """

    curve: str
    codec_id: str
    settings: dict[str, Any]
    asked_bits: float | None = None
    shared: Shares | None = None
    degree: int = 0

    @property
    def asked(self) -> str:
        """The bits that are asked for, as the table says them."""
        return "" if self.asked_bits is None else f"{self.asked_bits:g}"


@dataclass(frozen=True)
class Curves:
    """What was measured.

    Args:
        points: one row of figures for each case, as the CSV has them.
        spectra: of rows by themselves (None), and given context of each degree.
    """

    points: list[dict[str, Any]]
    spectra: dict[int | None, Spectrum]


def cases(codecs: Sequence[str], source: Source) -> Iterator[Case]:
    """Yield what to measure."""
    classes, n_rows, views = source.spec.classes, source.n_rows, source.n_rows / source.items
    for codec_id in codecs:
        for name, of_codec, settings in BASELINES:
            if of_codec == codec_id and settings.get("k", 0) < classes:
                yield Case(name, codec_id, settings)
        if codec_id in ("topk", "quantize", "raw"):
            continue
        widths = width(codec_id, n_rows, classes)
        if codec_id == "vqae":
            widths |= {"steps": full_steps(n_rows), "search": SEARCH}
        degrees: tuple[int | None, ...] = (None,)
        if views >= LEAST_VIEWS and codec_id in ("vqae", "klt"):
            degrees = (*reversed(degrees_worth(source)), None)
        for degree in degrees:
            for bits in RATES_OF.get(codec_id, RATES):
                settings, shared = widths, Shares(bits)
                if degree is not None:
                    settings = {**widths, "context": True}
                    shared = shares(bits, codec_id, settings, source.spec, views, degree)
                name = f"{codec_id}{CONTEXTS[degree]}"
                yield Case(name, codec_id, settings, bits, shared, degree or 0)


def measure(
    source: Source,
    folder: Path,
    codecs: Sequence[str] = CODECS,
    temperatures: tuple[float, ...] = TEMPERATURES,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[dict[str, Any]], None] = lambda point: None,
    refused: Callable[[Case, str], None] = lambda case, why: None,
) -> Curves:
    """Measure all cases; those that `folder` has from a run before are not measured again.

    Args:
        source: whose labels they are.
        folder: of the table.
        codecs: ids of those to measure.
        temperatures: to measure at.
        seed: of the fits.
        device: to fit and encode on.
        say: is told of each point.
        refused: is told of each case that a codec does not take, and why.

    Raises:
        SoftpackError: the source or a codec refuses.
    """
    if source.spec.space == HIDDEN:
        raise CodecError(
            f"{source.path}: holds hidden states, and rates are measured on labels; encode it at several --target-bits "
            "and see `softpack eval`"
        )
    if source.kept is not None:
        raise CodecError(
            f"{source.path}: holds some classes of a row alone, and rates are measured on whole rows; decode labels of "
            "which all are known, or encode it with --codec topk at several k"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror}; name another folder") from None
    views = source.n_rows / source.items
    learned = (
        {degree: learn(source, degree) for degree in degrees_worth(source)} if views >= LEAST_VIEWS else {}
    )
    path = folder / "rd.csv"
    points = _read(path)
    _check_source(points, source, path)
    _check_temperatures(points, temperatures, path)
    spectra = _spectra(source, learned)
    for point in points:
        point["bound_bits"] = _bound_bits(spectra, point["curve"], point["mse"])
    done = {(point["curve"], point["asked_bits"]) for point in points}
    for case in cases(codecs, source):
        if (case.curve, case.asked) in done:
            continue
        of_case = learned.get(case.degree)
        try:
            point = _point(case, source, folder / "point.spk", of_case, temperatures, seed, device)
            point["bound_bits"] = _bound_bits(spectra, case.curve, point["mse"])
        except CodecError as error:  # such as a rate that this codec cannot have
            refused(case, str(error))
            continue
        points.append(point)
        _write(path, points)
        say(point)
    return Curves(points, spectra)


def _point(
    case: Case,
    source: Source,
    spk: Path,
    learned: Learned | None,
    temperatures: tuple[float, ...],
    seed: int,
    device: str,
) -> dict[str, Any]:
    begun = time.perf_counter()
    code_bits = None if case.shared is None else case.shared.codes
    item_bits = None if case.shared is None else case.shared.items * source.n_rows / source.items
    model = fit_model(
        source, case.codec_id, case.settings, target_bits=code_bits, learned=learned, item_bits=item_bits, seed=seed,
        device=device,
    )  # fmt: skip
    fitted = time.perf_counter()
    encode_source(source, spk, model, learned=learned, seed=seed, device=device, force=True)
    encoded = time.perf_counter()
    account, found = ledger(spk), fidelity(spk, source, temperatures)
    point: dict[str, Any] = {
        "source": _name(source),
        "curve": case.curve,
        "codec": case.codec_id,
        "asked_bits": case.asked,
        "marginal_bits": account.marginal_bits_per_label,
        "code_bits": account.bits_of("codes") / account.n_rows,
        "entropy_bits": _entropy(Labels(spk)),
        "item_bits": account.bits_of("item") / account.n_rows,
        "model_bits": account.bits_of("model") / account.n_rows,
        "all_in_bits": account.all_in_bits_per_label,
        "ratio_fp16": account.ratio_vs(16),
        "mse": _squared_error(spk, source),
        "top1": found.top1_agreement,
        "fit_s": fitted - begun,
        "encode_s": encoded - fitted,
    }
    for T, divergence in found.temperatures.items():
        point |= {
            f"kl_{T:g}": divergence.kl_mean,
            f"kl_{T:g}_p99": divergence.kl_p99,
            f"kl_{T:g}_max": divergence.kl_max,
        }
    spk.unlink()
    return point


def _name(source: Source) -> str:
    return f"{source.path.name}: {source.n_rows} rows of {source.spec.classes}"


def _check_source(points: list[dict[str, Any]], source: Source, path: Path) -> None:
    found = {point["source"] for point in points} - {_name(source)}
    if found:
        raise DataError(
            f"{path}: is of {found.pop()}, not of {_name(source)}; name another folder, or delete it"
        )


def _check_temperatures(points: list[dict[str, Any]], temperatures: tuple[float, ...], path: Path) -> None:
    found = [name.removeprefix("kl_") for name in (points[0] if points else ()) if AT.fullmatch(name)]
    expected = [f"{T:g}" for T in temperatures]
    if points and found != expected:
        raise DataError(
            f"{path}: was measured at the temperatures {', '.join(found)}, expected {', '.join(expected)}; name "
            "another folder, or delete it"
        )


def _squared_error(spk: Path, source: Source) -> float:
    """Return the mean squared error a class, of logits whose mean is zero; infinite where tails are lost."""
    labels, total, n_rows = Labels(spk), 0.0, 0
    for block in source.blocks(4096):
        decoded_BC = centred_logits(labels.read(block.item_B, block.view_B), labels.spec)
        rows_BC = centred_logits(torch.from_numpy(block.labels_BC), source.spec)
        total += float((rows_BC - decoded_BC).double().square().mean(1).sum())
        n_rows += len(block)
    return total / max(n_rows, 1)


def _bound_bits(spectra: dict[int | None, Spectrum], curve: str, error: float) -> float:
    """Return the bits that a Gaussian source would need for a squared error, given the context that the curve has."""
    degrees = [degree for degree, name in CONTEXTS.items() if curve.endswith(name)]
    spectrum = spectra[max(degrees, key=lambda degree: len(CONTEXTS[degree]))]
    return float(gaussian_bound(spectrum, np.array([error]))[0]) if math.isfinite(error) else math.nan


def _entropy(labels: Labels) -> float:
    """Return the bits a label of an ideal code of each number by itself; nan where they have too many levels."""
    items, views = labels.cells(np.arange(min(labels.n_rows, ENTROPY_ROWS)))
    codes, total = labels.stored_codes(items, views), 0.0
    for array in labels.codec.codes:
        if array.levels > ans.MAX_LEVELS:
            return math.nan
        counts_SL = ans.count_codes(codes[array.name].reshape(len(items), -1), array.levels)
        shares_SL = counts_SL / len(items)
        total -= float((shares_SL * np.log2(np.where(counts_SL > 0, shares_SL, 1))).sum())
    return total


def _spectra(source: Source, learned: dict[int, Learned]) -> dict[int | None, Spectrum]:
    rows: list[np.ndarray] = []
    left: dict[int, list[np.ndarray]] = {degree: [] for degree in learned}
    told = 0.0
    for block in source.sample(BOUND_ROWS, 0):
        rows_BC = centred_logits(torch.from_numpy(block.labels_BC), source.spec)
        rows.append(rows_BC.numpy())
        for degree, of_degree in learned.items():
            left[degree].append((rows_BC - of_degree.exact_context_of(block)).numpy())
        if learned:
            share_B = learned[0].mixing(block).share_B.astype(np.float64)
            told += float(((1 - share_B) ** 2 + share_B**2).sum())
    views = source.n_rows / source.items
    told *= views / max(sum(map(len, rows)), 1)
    spectra: dict[int | None, Spectrum] = {None: Spectrum.of_rows(np.concatenate(rows))}
    for degree, of_degree in learned.items():
        of_items = of_degree.rows_NPC.numpy()
        spectra[degree] = Spectrum.of_items(np.concatenate(left[degree]), of_items, views, told)
    return spectra


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        return [{name: row[name] for name in TEXTS} | _numbers(row) for row in rows]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            f"{path}: is no table of `softpack bench rd`: {error!r}; delete it, or name another folder"
        ) from None


def _numbers(row: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in TEXTS}


def _write(path: Path, points: list[dict[str, Any]]) -> None:
    with replacing(path, force=True) as written, written.open("w", newline="") as file:
        writer = csv.DictWriter(file, points[0].keys(), lineterminator="\n")
        writer.writeheader()
        for point in points:
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in point.items()}
            )
