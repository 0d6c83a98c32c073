"""Labels that are read under `torch.autocast`: the very ones that are read without."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import softpack
from softpack.container import context
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source

VQAE = {"slots": 2, "k": 8, "d_c": 2, "d_h": 8, "steps": 30}
CODECS = {
    "raw": {},
    "quantize": {"bits": 3},
    "topk": {"k": 4},
    "lowrank": {"rank": 4, "bits": 6},
    "klt": {"bits": 12.0},
    "klt given context": {"bits": 12.0, "context": True},
    "vqae": VQAE,
    "vqae given context": {**VQAE, "context": True, "d_x": 4, "stages": 2},
}


@pytest.fixture(scope="module")
def source(views_of_items, tmp_path_factory):
    path = tmp_path_factory.mktemp("autocast") / "views.npz"
    np.savez(path, **views_of_items(items=20, views=10, mixed=0.3))
    return open_source(path)


@pytest.fixture(scope="module", params=CODECS)
def path(source, request):
    path = source.path.with_name(f"{request.param}.spk")
    model = fit_model(source, request.param.split()[0], CODECS[request.param])
    encode_source(source, path, model, max_kl=0.05)
    return path


def lowered():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("resident", [False, True])
def test_labels_are_float32_and_the_same(path, resident):
    labels = softpack.open(path)
    cells = labels.cells()
    reader = labels.load() if resident else labels
    with lowered():
        found_BC = reader.read(*cells)
    expected_BC = reader.read(*cells)

    assert found_BC.dtype == expected_BC.dtype == torch.float32
    assert torch.equal(found_BC, expected_BC)


def test_the_promise_holds(path, source):
    labels = softpack.open(path)
    given_BC = torch.from_numpy(np.concatenate([b.labels_BC for b in source.blocks(999)])).float()
    with lowered():
        found_BC = labels.read(*labels.cells())
    if labels.spec.space != "logits":
        found_BC = found_BC * labels.spec.temperature
    measured = softpack.fidelity(found_BC, given_BC)

    assert max(at.kl_max for at in measured.temperatures.values()) <= 0.05


@pytest.mark.parametrize("kept", [1 << 25, 0], ids=["kept decoded", "decoded as needed"])
def test_context_is_the_same_whether_it_was_first_asked_for_under_autocast(source, monkeypatch, kept):
    monkeypatch.setattr(context, "KEPT_VALUES", kept)
    path = source.path.with_name("context.spk")
    encode_source(source, path, fit_model(source, "klt", CODECS["klt given context"]), force=True)
    labels, other = softpack.open(path), softpack.open(path)
    cells = labels.cells()
    with lowered():
        found_BC = labels.context(*cells)
        resident_BC = labels.load().read(*cells)

    assert found_BC.dtype == resident_BC.dtype == torch.float32
    assert torch.equal(found_BC, other.context(*cells))
    assert torch.equal(labels.read(*cells), other.read(*cells))


@pytest.mark.parametrize("name", CODECS)
def test_codecs_are_fitted_and_rows_encoded_as_without_it(source, tmp_path, name):
    for out in ("plain.spk", "lowered.spk"):
        with lowered() if out == "lowered.spk" else nullcontext():
            model = fit_model(source, name.split()[0], CODECS[name])
            encode_source(source, tmp_path / out, model)
    assert (tmp_path / "plain.spk").read_bytes() == (tmp_path / "lowered.spk").read_bytes()


@pytest.mark.parametrize("codec", ["klt", "head"])
def test_writers_fit_and_encode_as_without_it(tmp_path, codec):
    chance = torch.Generator().manual_seed(0)
    rows_BC, matrix_VC = torch.randn(300, 8, generator=chance), torch.randn(40, 8, generator=chance)
    how = {"matrix": matrix_VC} if codec == "head" else {"classes": 8}
    for out in ("plain.spk", "lowered.spk"):
        under = lowered() if out == "lowered.spk" else nullcontext()
        with under, softpack.create(tmp_path / out, codec, bits=20.0, **how) as writer:
            writer.append(rows_BC, item=np.arange(300), view=0)
    assert (tmp_path / "plain.spk").read_bytes() == (tmp_path / "lowered.spk").read_bytes()
