"""How much is lost where a model is fitted to other views than those it encodes, rows given the prototypes of items.

The model is fitted to views 0 to 39 of every photo, none of them mixed, and encodes the other 22, of which 27 in 100
are CutMix. Prototypes are learned of the encoded views in both cases, and coded by the model.

`promise` is the greatest KL at T=1 that corrections hold rows to, as `encode --model --max-kl --temperature 1` does:
the model is fitted to fewer bits, and rows that are told badly, those unlike the rows of the fit, take the rest.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Results, options, use_threads
from labelsets import save_views

import softpack
from softpack.container.model import Model
from softpack.rate.control import SEARCH, full_steps
from softpack.rate.shares import shares
from softpack.records import TEMPERATURES
from softpack.sources.base import Source
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source

RATES = (16, 32, 64, 128)
FITTED, HELD_OUT = range(40), range(40, 62)
PROMISED_RATES = (32, 64, 128)
FIT_SHARE = 0.6  # of the rate for which the model is fitted, where there is a promise
MOST_KL, LEAST_KL, HALVINGS = 3.0, 0.05, 9  # between which the promise that meets the rate is looked for
FILE_BITS = 3.4  # a label of the file's own parts: index, header, checksums
SHARED_BY = 62  # views for which prototypes would have the right rate: unlike rows want bits of their own


@dataclass(frozen=True)
class Views:
    """Some views of every photo.

    Args:
        name: of these.
        source: of their labels.
        is_mixed_R: whether a row is mixed of two photos.
    """

    name: str
    source: Source
    is_mixed_R: np.ndarray


def main() -> None:
    """Measure and write the table."""
    given = options("held_out", __doc__ or "")
    use_threads(given.threads)
    results = Results(given)
    with tempfile.TemporaryDirectory() as folder:
        sets = [
            _views(given.lite0, Path(folder), name, views)
            for name, views in (("fitted", FITTED), ("held-out", HELD_OUT))
        ]
        spk = Path(folder) / "a.spk"
        for codec in ("klt", "vqae"):
            for bits in RATES[:1] if given.quick else RATES:
                model = _fitted(results, sets, codec, bits, given.quick)
                for views in sets:
                    encode_source(views.source, spk, model, force=True)
                    _add(results, spk, codec, bits, views, None)
        for bits in PROMISED_RATES[:1] if given.quick else PROMISED_RATES:
            model = _fitted(results, sets, "vqae", FIT_SHARE * bits, given.quick)
            promise = _promise(sets[1], model, bits, spk, 1 if given.quick else HALVINGS)
            for views in sets:
                encode_source(views.source, spk, model, max_kl=promise, temperatures=(1.0,), force=True)
                _add(results, spk, "vqae", bits, views, promise)


def _views(path: Path, folder: Path, name: str, views: range) -> Views:
    out = folder / f"{name}.npz"
    columns = save_views(path, out, views)
    return Views(name, open_source(out), columns["mix_item"] >= 0)


def _fitted(results: Results, sets: list[Views], codec: str, bits: float, quick: bool) -> Model:
    """Return a model fitted to the first views, for files of so many bits a label."""
    fitted, held_out = sets
    per_item = held_out.source.n_rows / held_out.source.items
    settings: dict[str, Any] = {"context": True}
    if codec == "vqae":
        settings |= {"d_h": 256, "search": SEARCH, "steps": 20 if quick else full_steps(fitted.source.n_rows)}
    shared = shares(bits - FILE_BITS, codec, settings, fitted.source.spec, SHARED_BY)
    return fit_model(
        fitted.source, codec, settings, target_bits=shared.codes, item_bits=shared.items * per_item,
        seed=results.given.seed,
    )  # fmt: skip


def _promise(views: Views, model: Model, bits: float, spk: Path, halvings: int) -> float:
    """Return the least promise, about, whose corrections leave a file of these views within the rate."""
    least, most = math.log(LEAST_KL), math.log(MOST_KL)
    for _ in range(halvings):
        middle = (least + most) / 2
        encode_source(views.source, spk, model, max_kl=math.exp(middle), temperatures=(1.0,), force=True)
        if softpack.ledger(spk).marginal_bits_per_label > bits:
            least = middle
        else:
            most = middle
    return math.exp(most)


def _add(results: Results, spk: Path, codec: str, bits: float, views: Views, promise: float | None) -> None:
    """Measure a file of some views."""
    account, labels = softpack.ledger(spk), softpack.open(spk)
    row: dict[str, Any] = {
        "codec": codec, "asked_bits": bits, "promise": "" if promise is None else f"{promise:.3f}", "rows": views.name,
        "marginal_bits": account.marginal_bits_per_label,
        "item_bits": account.bits_of("item") / account.n_rows,
    }  # fmt: skip
    found, alone, mixed = (
        _kls(labels, views, which)
        for which in (np.full_like(views.is_mixed_R, True), ~views.is_mixed_R, views.is_mixed_R)
    )
    for T in TEMPERATURES:
        row |= {f"kl{T:g}": found[T], f"kl{T:g}_unmixed": alone[T], f"kl{T:g}_mixed": mixed[T]}
    results.add(**row)


def _kls(labels: softpack.Labels, views: Views, which_R: np.ndarray) -> dict[float, float]:
    """Return the mean KL of some rows by temperature; nan where there are none."""
    if not which_R.any():
        return dict.fromkeys(TEMPERATURES, float("nan"))
    blocks = list(views.source.blocks(1 << 20))
    given_RC = np.concatenate([block.labels_BC for block in blocks])[which_R]
    items, views_ = (np.concatenate([getattr(b, n) for b in blocks])[which_R] for n in ("item_B", "view_B"))
    found = softpack.fidelity(labels.read(items, views_), given_RC, TEMPERATURES)
    return {T: at.kl_mean for T, at in found.temperatures.items()}


if __name__ == "__main__":
    main()
