"""Rows that are coded given where their views look: an item has a prototype for each function of the crop."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import softpack
from softpack.container import context
from softpack.container.model import Model
from softpack.container.repack import repack
from softpack.container.viewpoint import n_functions, viewpoints_of
from softpack.errors import CodecError, CorruptError, DataError
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.learning import learn
from softpack.sources.opening import open_source

ITEMS, VIEWS, CLASSES, SIDE = 24, 30, 10, 32
KLT = {"context": True, "search": 0, "bits": 12.0}


def arrays(mixed: float = 0.3, in_pixels: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows that are linear functions of where views look, some of them CutMix of two items."""
    random = np.random.default_rng(seed)
    sides_NV2 = random.uniform(0.3, 1, (ITEMS, VIEWS, 2))
    crop_NV4 = np.concatenate([random.uniform(0, 1, sides_NV2.shape) * (1 - sides_NV2), sides_NV2], 2).astype(
        "f4"
    )
    found = {"crop_xywh": crop_NV4}
    if in_pixels:
        hw_N2 = random.integers(100, 200, (ITEMS, 2)).astype("i4")
        wh_N14 = np.tile(hw_N2[:, None, ::-1], 2)
        found = {"crop_xywh": np.rint(crop_NV4 * wh_N14).astype("i4"), "source_hw": hw_N2}
        crop_NV4 = (found["crop_xywh"] / wh_N14).astype("f4")
    looks_NV3 = viewpoints_of({"crop_xywh_fraction": crop_NV4.reshape(-1, 4)}, None).reshape(ITEMS, VIEWS, 3)
    own_NVC = random.normal(size=(ITEMS, 1, CLASSES)) * 2 + looks_NV3 @ random.normal(size=(ITEMS, 3, CLASSES))
    is_mixed_NV = random.random((ITEMS, VIEWS)) < mixed
    partner_NV = np.where(is_mixed_NV, random.integers(0, ITEMS, (ITEMS, VIEWS)), -1)
    lam_NV = np.where(is_mixed_NV, random.uniform(0.3, 1, (ITEMS, VIEWS)), 1).astype("f4")
    other_NVC = own_NVC[np.maximum(partner_NV, 0), np.arange(VIEWS)]
    logits_NVC = lam_NV[..., None] * own_NVC + (1 - lam_NV[..., None]) * other_NVC
    noise_NVC = 0.02 * random.normal(size=logits_NVC.shape)
    return found | {
        "logits": (logits_NVC + noise_NVC).astype("f4"), "mix_item": partner_NV.astype("i4"), "mix_lam": lam_NV,
    }  # fmt: skip


def source_of(folder, **how):
    folder.mkdir(exist_ok=True)
    np.savez(folder / "views.npz", **arrays(**how))
    return open_source(folder / "views.npz")


@pytest.fixture(scope="module", params=[False, True], ids=["fractions", "pixels"])
def source(request, tmp_path_factory):
    return source_of(tmp_path_factory.mktemp("crops"), in_pixels=request.param)


@pytest.fixture(scope="module")
def model(source):
    return fit_model(source, "klt", KLT, degree=1, item_bits=200)


@pytest.fixture(scope="module")
def path(source, model):
    encode_source(source, source.path.with_suffix(".spk"), model)
    return source.path.with_suffix(".spk")


def block_of(source):
    (block,) = source.blocks(source.n_rows)
    return block


def centred(rows_BC):
    rows_BC = torch.as_tensor(rows_BC).float()
    return rows_BC - rows_BC.mean(1, keepdim=True)


def test_learnt_prototypes_say_what_views_of_any_crop_are(source):
    block, errors = block_of(source), []
    for degree in (0, 1, 2):
        learned = learn(source, degree)
        assert learned.rows_NPC.shape == (ITEMS, n_functions(degree), CLASSES)
        errors.append(float((learned.exact_context_of(block) - centred(block.labels_BC)).square().mean()))
    assert errors[1] < 0.03 * errors[0]  # what is left is noise
    assert errors[2] < 0.03 * errors[0]


def test_the_file_reads_near_its_source_and_one_of_means_does_not(source, path, tmp_path):
    block = block_of(source)
    means = fit_model(source, "klt", KLT, item_bits=200)
    encode_source(source, tmp_path / "means.spk", means)
    errors = [
        float((softpack.open(p).read(block.item_B, block.view_B) - centred(block.labels_BC)).square().mean())
        for p in (path, tmp_path / "means.spk")
    ]
    assert errors[0] < 0.5 * errors[1]


def test_the_context_is_what_the_encoder_saw(source, model, path):
    labels, block = softpack.open(path), block_of(source)
    codes = model.codec.encode(
        torch.from_numpy(block.labels_BC).float(), labels.context(block.item_B, block.view_B)
    )
    stored = labels.read_codes(block.item_B, block.view_B)
    assert all(torch.equal(codes[name], stored[name]) for name in codes)


def test_labels_read_the_same_by_any_way(source, path):
    labels, block = softpack.open(path), block_of(source)
    rows_BC = labels.read(block.item_B, block.view_B)
    resident = labels.load()
    assert torch.equal(resident.read(block.item_B, block.view_B), rows_BC)
    assert torch.equal(pickle.loads(pickle.dumps(labels)).read([5, 0], [1, 9]), labels.read([5, 0], [1, 9]))
    one_by_one = torch.stack(
        [labels[int(i), int(v)] for i, v in zip(block.item_B[:40], block.view_B[:40], strict=True)]
    )
    torch.testing.assert_close(one_by_one, rows_BC[:40])


def test_the_header_says_the_degree_and_the_least_version(path):
    header = softpack.open(path).file.header
    assert header.context is not None
    assert (header.context.degree, header.minor) == (1, 2)


def test_files_without_degrees_do_not_say_so(source, tmp_path):
    encode_source(source, tmp_path / "a.spk", fit_model(source, "klt", KLT, item_bits=50))
    header = softpack.open(tmp_path / "a.spk").file.header
    assert b"degree" not in header.to_bytes()
    assert header.minor == 1


def test_a_saved_model_encodes_views_that_it_has_not_seen(source, model, tmp_path):
    softpack.container.create.save_model(tmp_path / "m.spkm", model)
    loaded = softpack.container.create.load_model(tmp_path / "m.spkm")
    other = source_of(tmp_path / "other", seed=1)
    encode_source(other, tmp_path / "b.spk", loaded)
    block = block_of(other)
    error = (
        softpack.open(tmp_path / "b.spk").read(block.item_B, block.view_B) - centred(block.labels_BC)
    ).square()
    assert float(error.mean()) < 0.2 * float(centred(block.labels_BC).square().mean())


def test_rows_may_be_appended_after_their_partners(tmp_path):
    source = source_of(tmp_path / "s")
    model = fit_model(source, "klt", KLT, degree=1, item_bits=200)
    learned, block = learn(source, basis=model.basis), block_of(source)
    early, late = block.view_B < 20, block.view_B >= 20
    with softpack.create(tmp_path / "a.spk", model, prototypes=learned.rows_NPC, appendable=True) as writer:
        writer.add(block.take(early))
    with softpack.append(tmp_path / "a.spk") as writer:
        writer.add(block.take(late))
    encode_source(source, tmp_path / "b.spk", model, learned=learned)
    cells = block.item_B, block.view_B
    assert torch.equal(
        softpack.open(tmp_path / "a.spk").read(*cells), softpack.open(tmp_path / "b.spk").read(*cells)
    )


def test_a_mixed_row_before_its_partner_is_refused_and_nothing_is_left(tmp_path):
    source = source_of(tmp_path / "s")
    model = fit_model(source, "klt", KLT, degree=1, item_bits=200)
    block = block_of(source)
    mixed = int(np.flatnonzero((block.replay["mix_item"] >= 0) & (block.replay["mix_item"] != block.item_B))[0])
    with (
        pytest.raises(
            DataError, match=r"whose view of that number has not come yet; .* add a row after its partner's"
        ),
        softpack.create(
            tmp_path / "a.spk", model, prototypes=learn(source, basis=model.basis).rows_NPC
        ) as writer,
    ):
        writer.add(block.take(np.array([mixed])))
    assert not (tmp_path / "a.spk").exists()


def test_a_row_whose_partner_is_lost_is_not_guessed(source, path, monkeypatch):
    labels, block = softpack.open(path), block_of(source)
    row = int(np.flatnonzero(block.replay["mix_item"] >= 0)[0])
    partner = int(block.replay["mix_item"][row])
    there = labels.has
    monkeypatch.setattr(labels, "has", lambda items, views: there(items, views) & (items != partner))
    with pytest.raises(CorruptError, match="with which a row is mixed that is coded given where both look"):
        labels.read([block.item_B[row]], [block.view_B[row]])


def test_replay_columns_cannot_be_left_out(source, model, path, tmp_path):
    with pytest.raises(DataError, match="weighs prototypes by the views' crops, which the file would not have"):
        encode_source(source, tmp_path / "a.spk", model, replay=False)
    with pytest.raises(DataError, match="coded given where their views look, which the replay columns say"):
        repack(path, tmp_path / "a.spk", replay=False)
    assert not list(tmp_path.iterdir())


def test_a_source_that_does_not_say_crops_is_refused(source, model, tmp_path):
    np.savez(tmp_path / "a.npz", logits=arrays()["logits"])
    with pytest.raises(DataError, match=r"a.npz: does not say where views look; give the replay columns"):
        encode_source(open_source(tmp_path / "a.npz"), tmp_path / "a.spk", model)


def test_repacked_labels_are_the_same(source, path, tmp_path):
    block = block_of(source)
    repack(path, tmp_path / "a.spk")
    whole, again = (softpack.open(p).read(block.item_B, block.view_B) for p in (path, tmp_path / "a.spk"))
    assert torch.equal(whole, again)


def test_prototypes_of_another_number_are_refused(model, tmp_path):
    with pytest.raises(
        DataError, match=r"prototypes of shape \[24, 10\] are none; expected finite logits \[items, 4, 10\]"
    ):
        softpack.create(tmp_path / "a.spk", model, prototypes=np.zeros((ITEMS, CLASSES)))


def test_functions_without_prototypes_are_refused(model):
    with pytest.raises(CodecError, match="functions to weigh prototypes by, but no codec for prototypes"):
        Model(softpack.codecs.registry.make_codec("raw", model.codec.spec, {}), basis=model.basis)


@pytest.mark.parametrize("kept", [True, False], ids=["kept decoded", "decoded as needed"])
@pytest.mark.parametrize("resident", [False, True])
def test_what_codecs_see_of_prototypes_is_what_they_see_of_the_context(source, monkeypatch, kept, resident):
    """vqae's networks see features of the context: those of a row are summed from the prototypes' as the row is."""
    monkeypatch.setattr(context, "KEPT_VALUES", context.KEPT_VALUES if kept else 0)
    settings = {"context": True, "slots": 2, "k": 8, "d_c": 2, "d_h": 8, "d_x": 4, "steps": 30}
    path = source.path.with_name("seen.spk")
    encode_source(source, path, fit_model(source, "vqae", settings, degree=1, item_bits=200), force=True)
    labels = softpack.open(path)
    cells = labels.cells()
    assert (labels.prototypes.features_RX is not None) == kept

    found_BC = (labels.load() if resident else labels).read(*cells)

    expected_BC = labels.codec.decode(labels.read_codes(*cells), labels.context(*cells))
    torch.testing.assert_close(found_BC, expected_BC, rtol=1e-5, atol=1e-5)
    assert (labels.codec.decode(labels.read_codes(*cells), 0 * found_BC) - found_BC).abs().max() > 1
