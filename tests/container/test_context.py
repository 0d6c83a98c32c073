"""Rows that are coded given their items' prototypes, from a source to a student."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
import torch

import softpack
from softpack.codecs.registry import make_codec
from softpack.codecs.spaces import centred_logits
from softpack.container import context, create
from softpack.container.mixing import Mixing
from softpack.container.model import Model
from softpack.container.repack import repack
from softpack.errors import CodecError, DataError
from softpack.records import LabelSpec
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source

CLASSES = 12
SMALL = {"slots": 2, "k": 8, "d_c": 2, "d_h": 8, "d_x": 4, "steps": 30, "context": True}


@pytest.fixture(scope="module")
def source(views_of_items, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "mixed.npz"
    np.savez(path, **views_of_items(mixed=0.4))
    return open_source(path)


@pytest.fixture(scope="module")
def model(source):
    return fit_model(source, "vqae", SMALL)


@pytest.fixture(scope="module")
def path(source, model):
    path = source.path.with_name("mixed.spk")
    encode_source(source, path, model)
    return path


@pytest.fixture(scope="module")
def bare(source, model):
    path = source.path.with_name("bare.spk")
    encode_source(source, path, model, replay=False)
    return path


def rows_of(source):
    (block,) = source.blocks(source.n_rows)
    return block


def means(rows_NVC):
    return np.asarray(rows_NVC, np.float32).mean(1)


def kl(labels, source):
    return softpack.fidelity(labels, source, temperatures=(1,)).temperatures[1.0].kl_mean


# -- what readers make of it -------------------------------------------------------------------------------


def test_the_context_is_what_the_encoder_saw(source, model, path):
    labels, block = softpack.open(path), rows_of(source)

    context_BC = labels.context(block.item_B, block.view_B)
    codes = model.codec.encode(torch.from_numpy(block.labels_BC).float(), context_BC)

    stored = labels.read_codes(block.item_B, block.view_B)
    assert torch.equal(codes["index"], stored["index"])


def test_labels_read_the_same_by_read_blocks_index_and_load(path):
    labels = softpack.open(path)
    item_B, view_B = labels.cells()
    whole_BC = labels.read(item_B, view_B)

    blocks_BC = np.concatenate([block.labels_BC for block in labels.blocks(77)])
    np.testing.assert_allclose(blocks_BC, whole_BC, atol=1e-5)
    torch.testing.assert_close(labels[3], whole_BC[item_B == 3], atol=1e-5, rtol=0)
    torch.testing.assert_close(labels[3, 2], whole_BC[(item_B == 3) & (view_B == 2)][0], atol=1e-5, rtol=0)
    assert torch.equal(labels.load().read(item_B, view_B), whole_BC)
    order = np.random.default_rng(0).permutation(len(item_B))
    shuffled_BC = labels.load().read(item_B[order], view_B[order])
    torch.testing.assert_close(shuffled_BC, whole_BC[order], atol=1e-5, rtol=0)


def test_rows_may_be_asked_for_in_any_way(path):
    """Read-only arrays, lists, tensors, single numbers: of items, which the context is found by."""
    labels = softpack.open(path)
    expected = labels[3, 4]
    fixed = np.broadcast_to(np.int64(3), 1)
    for read in (labels.read, labels.load().read):
        for item in (3, [3], fixed, np.array([3], np.uint8), torch.tensor([3])):
            torch.testing.assert_close(read(item, 4 if item == 3 and np.isscalar(item) else [4])[0], expected)


def test_mixed_rows_are_given_both_prototypes(source, path):
    labels, block = softpack.open(path), rows_of(source)
    mixing = labels.weighing.mixing(block.item_B, block.view_B)
    is_mixed_B = block.replay["mix_item"] >= 0
    assert 0.2 < is_mixed_B.mean() < 0.6
    np.testing.assert_array_equal(mixing.partner_B, block.replay["mix_item"])
    assert (mixing.share_B[is_mixed_B] > 0).all()
    assert not mixing.share_B[~is_mixed_B].any()

    found_BC = labels.context(block.item_B, block.view_B).numpy()

    made_NC = labels.prototypes.rows_RC.numpy()
    share_B1 = mixing.share_B[:, None]
    expected_BC = (1 - share_B1) * made_NC[block.item_B] + share_B1 * made_NC[mixing.partner_B]
    np.testing.assert_allclose(found_BC, expected_BC, atol=1e-5)
    rows_BC = centred_logits(torch.from_numpy(block.labels_BC), source.spec).numpy()
    alone_BC = made_NC[block.item_B]
    error, error_alone = (np.square(rows_BC - c)[is_mixed_B].mean() for c in (found_BC, alone_BC))
    assert error < 0.7 * error_alone


def test_context_is_worth_its_bits(source, path, tmp_path):
    alone = fit_model(source, "vqae", {n: v for n, v in SMALL.items() if n not in ("context", "d_x")})
    encode_source(source, tmp_path / "alone.spk", alone)
    assert alone.codec.bits_per_label() == softpack.open(path).codec.bits_per_label()
    assert kl(path, source) < 0.5 * kl(tmp_path / "alone.spk", source)


def test_prototypes_are_items_in_the_ledger(path):
    ledger = softpack.ledger(path)
    entries = {entry.what: entry.scope for entry in ledger.entries}
    assert ledger.total_bits == 8 * path.stat().st_size
    assert ledger.bits_of("item") > 0
    assert entries["what decodes the prototypes"] == "model"
    assert {scope for what, scope in entries.items() if what.startswith("prototype: ")} == {"item"}


def test_too_many_prototypes_are_decoded_when_they_are_needed(path, monkeypatch):
    kept = softpack.open(path)
    item_B, view_B = kept.cells()
    expected_BC = kept.read(item_B, view_B)
    monkeypatch.setattr(context, "KEPT_VALUES", 30)

    labels = softpack.open(path)

    assert labels.prototypes.rows_RC is None
    torch.testing.assert_close(labels.read(item_B, view_B), expected_BC, atol=1e-4, rtol=0)
    torch.testing.assert_close(labels.load().read(item_B, view_B), expected_BC, atol=1e-4, rtol=0)


def read_into(labels, item_B, view_B, pipe):
    torch.set_num_threads(1)
    pipe.send(labels.read(item_B, view_B).numpy())
    pipe.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("resident", [False, True])
def test_workers_read_the_same(path, resident):
    labels = softpack.open(path)
    item_B, view_B = labels.cells()
    given = labels.load() if resident else labels
    pipes = multiprocessing.get_context("fork")
    mine, theirs = pipes.Pipe(duplex=False)

    worker = pipes.Process(target=read_into, args=(given, item_B, view_B, theirs))
    worker.start()
    theirs.close()
    found_BC = mine.recv() if mine.poll(60) else None
    worker.join(60)

    np.testing.assert_allclose(found_BC, labels.read(item_B, view_B), atol=1e-5)


def test_pickles_bring_their_context(path):
    labels = softpack.open(path)
    item_B, view_B = labels.cells()
    expected_BC = labels.read(item_B, view_B)
    for given in (labels, labels.load()):
        assert torch.equal(pickle.loads(pickle.dumps(given)).read(item_B, view_B), expected_BC)


# -- without the replay columns ----------------------------------------------------------------------------


def test_without_replay_who_is_mixed_is_kept(source, path, bare):
    labels, block = softpack.open(bare), rows_of(source)
    assert labels.columns == ()
    assert labels.file.header.stream("mix") is not None
    assert softpack.ledger(bare).bits_of("replay") == 0

    found, whole = (softpack.open(p).weighing.mixing(block.item_B, block.view_B) for p in (bare, path))

    np.testing.assert_array_equal(found.partner_B, whole.partner_B)
    assert 0 < np.abs(found.share_B - whole.share_B).max() <= 1 / 256


def test_without_replay_labels_are_nearly_the_same(source, path, bare):
    labels, block = softpack.open(bare), rows_of(source)
    whole_BC = softpack.open(path).read(block.item_B, block.view_B)
    difference_B = (labels.read(block.item_B, block.view_B) - whole_BC).abs().mean(1).numpy()
    unmixed_B = block.replay["mix_item"] < 0
    assert difference_B[unmixed_B].max() < 1e-5
    assert difference_B.mean() < 0.05 * np.abs(block.labels_BC).mean()
    assert kl(labels, source) < 1.1 * kl(path, source)


def test_repacking_drops_and_keeps_what_the_context_needs(source, path, bare, tmp_path):
    labels, block = softpack.open(path), rows_of(source)
    repack(path, tmp_path / "again.spk")
    repack(path, tmp_path / "bare.spk", replay=False)
    repack(bare, tmp_path / "bare_again.spk")
    cells = block.item_B, block.view_B

    again, dropped, kept = (softpack.open(tmp_path / f"{n}.spk") for n in ("again", "bare", "bare_again"))

    assert torch.equal(again.read(*cells), labels.read(*cells))
    assert again.columns == labels.columns
    assert dropped.columns == ()
    np.testing.assert_array_equal(
        dropped.weighing.mixing(*cells).partner_B, labels.weighing.mixing(*cells).partner_B
    )
    assert torch.equal(kept.read(*cells), softpack.open(bare).read(*cells))


# -- what later rows and other callers bring ---------------------------------------------------------------


@pytest.mark.parametrize("replay", [True, False])
def test_appended_items_have_no_prototype(source, model, tmp_path, replay):
    path = tmp_path / "grows.spk"
    encode_source(source, path, model, replay=replay, appendable=True)
    rows_BC = 3 * np.random.default_rng(5).normal(size=(3, CLASSES)).astype("f4")
    item_B, view_B = np.array([30, 31, 0]), np.array([0, 0, 9])
    boxes_B4 = np.array([[-1] * 4, [0, 0, 16, 32], [0, 0, 16, 32]])
    partner_B = np.array([-1, 30, 30])

    with softpack.append(path) as more:
        more.append(
            np.concatenate([rows_BC, rows_BC[:1]]),
            item=[*item_B, 30],
            view=[*view_B, 9],
            mix_item=[*partner_B, -1],
            mix_box_xyxy=np.concatenate([boxes_B4, boxes_B4[:1]]),
        )

    labels = softpack.open(path)
    found_BC = labels.context(item_B, view_B)
    own_C = labels.prototypes.rows_RC[0]
    assert not found_BC[:2].any()
    torch.testing.assert_close(found_BC[2], 0.5 * own_C)
    codes = model.codec.encode(torch.from_numpy(rows_BC), found_BC)
    assert torch.equal(codes["index"], labels.read_codes(item_B, view_B)["index"])
    assert torch.equal(labels.load().read(item_B, view_B), labels.read(item_B, view_B))


def test_a_partner_of_a_later_item_needs_no_prototype(views_of_items, tmp_path):
    rows_NVC = views_of_items(items=20)["logits"].astype("f4")
    with softpack.create(
        tmp_path / "a.spk", "vqae", classes=CLASSES, items=20, views=8, prototypes=means(rows_NVC)[:15], **SMALL
    ) as out:
        for item in range(20):
            partner = np.where(np.arange(8) % 2, 19, -1)
            out.append(
                rows_NVC[item], item=item, view=np.arange(8), mix_item=partner, mix_lam=np.full(8, 0.75, "f4")
            )

    labels = softpack.open(tmp_path / "a.spk")

    assert labels.shape == (20, 8, CLASSES)
    made_NC = labels.prototypes.rows_RC
    assert len(made_NC) == 15
    item_B, view_B = np.array([4, 4, 17, 17]), np.array([0, 1, 0, 1])
    context_BC = labels.context(item_B, view_B)
    torch.testing.assert_close(context_BC[:2], torch.stack([made_NC[4], 0.75 * made_NC[4]]))
    assert not context_BC[2:].any()
    assert torch.equal(labels.load().read(item_B, view_B), labels.read(item_B, view_B))


def test_items_may_come_beyond_the_prototypes_where_their_number_is_not_known(views_of_items, tmp_path):
    rows_NVC = views_of_items(items=20)["logits"].astype("f4")
    with softpack.create(
        tmp_path / "a.spk", "vqae", classes=CLASSES, prototypes=means(rows_NVC)[:15], **SMALL
    ) as out:
        out.append(rows_NVC[:, 0], item=np.arange(20), view=0)

    labels = softpack.open(tmp_path / "a.spk")

    assert labels.shape[:2] == (20, 1)
    assert not labels.context([15, 19], [0, 0]).any()


def test_prototypes_are_centred_and_of_any_kind(views_of_items, tmp_path):
    rows_NVC = views_of_items()["logits"].astype("f4")
    made_NC = means(rows_NVC).round()
    files = []
    for n, prototypes in enumerate((made_NC, made_NC.astype(int) + 5, torch.from_numpy(made_NC).double())):
        files.append(tmp_path / f"{n}.spk")
        with softpack.create(
            files[-1], "vqae", classes=CLASSES, items=30, views=8, prototypes=prototypes, **SMALL
        ) as out:
            out.append(
                rows_NVC.reshape(-1, CLASSES), item=np.repeat(np.arange(30), 8), view=np.tile(np.arange(8), 30)
            )
    found = [softpack.open(path).prototypes.rows_RC for path in files]
    assert found[0].mean(1).abs().max() < 0.1
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(("space", "temperature"), [("log_probs", 1.0), ("probs", 4.0)])
def test_probabilities_have_logits_as_their_context(views_of_items, tmp_path, space, temperature):
    arrays = views_of_items(mixed=0.3)
    logits_NVC = torch.from_numpy(arrays.pop("logits")).float()
    logs_NVC = torch.log_softmax(logits_NVC / temperature, -1)
    arrays[space] = (logs_NVC if space == "log_probs" else logs_NVC.exp()).numpy()
    np.savez(tmp_path / "a.npz", **arrays, temperature=temperature)
    source = open_source(tmp_path / "a.npz")
    encode_source(source, tmp_path / "a.spk", fit_model(source, "vqae", SMALL))

    labels = softpack.open(tmp_path / "a.spk")

    assert labels.spec == LabelSpec(CLASSES, "log_probs", temperature)
    expected_NC = centred_logits(logits_NVC, LabelSpec(CLASSES)).mean(1)
    correlation = np.corrcoef(labels.prototypes.rows_RC.flatten(), expected_NC.flatten())[0, 1]
    assert correlation > 0.95
    decoded_BC = labels.read(*labels.cells())
    torch.testing.assert_close(decoded_BC.exp().sum(1), torch.ones(len(decoded_BC)))
    np.savez(tmp_path / "logits.npz", logits=logits_NVC.numpy())
    assert kl(labels, open_source(tmp_path / "logits.npz")) < 0.3


# -- sources that leave little to learn --------------------------------------------------------------------


def encoded(tmp_path, settings=SMALL, **arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    source = open_source(tmp_path / "a.npz")
    encode_source(source, tmp_path / "a.spk", fit_model(source, "vqae", settings))
    labels = softpack.open(tmp_path / "a.spk")
    decoded_BC = labels.read(*labels.cells())
    assert torch.isfinite(decoded_BC).all()
    return decoded_BC, source


def test_rows_all_alike(tmp_path):
    row_C = np.linspace(-2, 3, CLASSES).astype("f4")
    decoded_BC, _source = encoded(tmp_path, logits=np.tile(row_C, (5, 4, 1)))
    expected_C = torch.from_numpy(row_C - row_C.mean())
    torch.testing.assert_close(decoded_BC, expected_C.expand(20, CLASSES), atol=0.05, rtol=0)


def test_fewer_rows_than_codewords(tmp_path, views_of_items):
    arrays = views_of_items(items=2, views=3)
    _decoded_BC, source = encoded(tmp_path, {**SMALL, "k": 64}, **arrays)
    assert kl(tmp_path / "a.spk", source) < 0.05


def test_a_class_that_never_varies(tmp_path, views_of_items):
    rows_NVC = views_of_items()["logits"]
    rows_NVC[..., 4] = -3
    encoded(tmp_path, logits=rows_NVC)
    assert kl(tmp_path / "a.spk", open_source(tmp_path / "a.npz")) < 0.2


def test_items_of_one_view_and_items_without_rows(tmp_path, views_of_items):
    rows_NVC = views_of_items()["logits"]
    item = np.array([0, 1, 2, 2, 2, 7, 29] * 1)
    view = np.array([0, 0, 0, 1, 2, 5, 0])
    decoded_BC, _ = encoded(tmp_path, logits=rows_NVC[item, view], item=item, view=view)
    assert len(decoded_BC) == 7


def test_an_item_that_is_mixed_in_every_view(tmp_path, views_of_items):
    arrays = views_of_items(mixed=0.3)
    arrays["mix_item"][3] = np.arange(8) + 10
    arrays["mix_box_xyxy"][3] = [0, 0, 16, 16]
    rows_NVC = arrays["logits"].astype("f4")
    true_3C, others_8C = rows_NVC[5, 0], rows_NVC[10:18, 0]
    rows_NVC[3] = 0.75 * true_3C + 0.25 * others_8C
    arrays["logits"] = rows_NVC
    encoded(tmp_path, **arrays)
    found_C = softpack.open(tmp_path / "a.spk").prototypes.rows_RC[3]
    assert np.corrcoef(found_C, true_3C)[0, 1] > 0.9


# -- what is refused ---------------------------------------------------------------------------------------


def test_a_codec_with_context_wants_prototypes(tmp_path):
    with pytest.raises(
        CodecError, match=r"a\.spk: codec vqae codes rows given their items' prototypes; give prototypes="
    ):
        softpack.create(tmp_path / "a.spk", "vqae", classes=CLASSES, context=True)
    assert not list(tmp_path.iterdir())


def test_a_fitted_model_wants_prototypes_too(model, tmp_path):
    rows_BC = np.zeros((2, CLASSES), "f4")
    with (
        pytest.raises(CodecError, match=r"a\.spk: codec vqae .* none were given; give prototypes="),
        softpack.create(tmp_path / "a.spk", model, items=2, views=1) as out,
    ):
        out.append(rows_BC, item=[0, 1], view=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", ["raw", "quantize"])
def test_a_codec_without_context_takes_no_prototypes(codec, tmp_path):
    with pytest.raises(
        CodecError, match="codes each row by itself and has no use for prototypes; leave them out"
    ):
        softpack.create(tmp_path / "a.spk", codec, classes=3, prototypes=np.zeros((2, 3)))
    assert not list(tmp_path.iterdir())


def test_prototypes_of_more_items_than_there_are(tmp_path):
    with pytest.raises(DataError, match=r"a\.spk: found prototypes of 4 items, expected 3 at most"):
        softpack.create(
            tmp_path / "a.spk",
            "vqae",
            classes=CLASSES,
            items=3,
            prototypes=np.zeros((4, CLASSES)),
            context=True,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "prototypes",
    [
        np.zeros(CLASSES),
        np.zeros((4, CLASSES + 1)),
        np.zeros((2, 4, CLASSES)),
        np.full((4, CLASSES), np.nan),
        np.full((4, CLASSES), np.inf),
        np.zeros((0, CLASSES)),
        [["a"] * CLASSES],
        "none",
    ],
    ids=["1-d", "classes", "3-d", "nan", "inf", "empty", "text", "string"],
)
def test_prototypes_that_are_none(prototypes, tmp_path):
    with pytest.raises(DataError, match=r"a\.spk: prototypes .*expected finite logits \[items, 12\]"):
        softpack.create(
            tmp_path / "a.spk", "vqae", classes=CLASSES, items=4, prototypes=prototypes, context=True
        )
    assert not list(tmp_path.iterdir())


def test_a_model_has_prototypes_if_and_only_if_it_takes_context(model):
    with pytest.raises(CodecError, match="vqae needs context; give a codec for the prototypes"):
        Model(model.codec)
    with pytest.raises(CodecError, match="raw takes no context; give a codec for the prototypes"):
        Model(make_codec("raw", LabelSpec(CLASSES), {}), model.prototypes)


def test_a_model_of_other_classes_is_refused(model, views_of_items, tmp_path):
    np.savez(tmp_path / "a.npz", **views_of_items(classes=9))
    with pytest.raises(
        CodecError, match=r"the model: was fitted to logits of 12 classes; the source holds logits of 9 classes"
    ):
        encode_source(open_source(tmp_path / "a.npz"), tmp_path / "a.spk", model)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_saved_model_encodes_other_items(source, model, views_of_items, tmp_path):
    """Prototypes are learnt from what is encoded; the model brings their codec."""
    create.save_model(tmp_path / "m.spkm", model)
    loaded = create.load_model(tmp_path / "m.spkm")
    np.savez(tmp_path / "a.npz", **views_of_items(items=11, mixed=0.4))
    other = open_source(tmp_path / "a.npz")

    encode_source(other, tmp_path / "a.spk", loaded)

    labels = softpack.open(tmp_path / "a.spk")
    assert len(labels.prototypes.rows_RC) == 11
    assert kl(labels, other) < 1.0
    assert loaded.tables.keys() == model.tables.keys()


def test_no_item_has_a_prototype():
    codec = make_codec("raw", LabelSpec(4), {})
    none = context.Prototypes.of_codes(codec, codec.encode(torch.zeros(0, 4)))
    mixing = Mixing(np.array([1, -1]), np.array([0.5, 0], np.float32))
    assert len(none) == 0
    assert torch.equal(none.context_of(np.array([0, 9]), mixing), torch.zeros(2, 4))


def test_one_prototype_serves_all_its_rows():
    codec = make_codec("raw", LabelSpec(4), {"dtype": "fp32"})
    rows_NC = torch.tensor([[1.0, -1, 2, -2], [3, -3, 0, 0]])
    made = context.Prototypes.of_codes(codec, codec.encode(rows_NC))
    mixing = Mixing(np.array([-1, 1, 5, 0]), np.array([0, 0.25, 0.5, 1], np.float32))
    found_BC = made.context_of(np.array([0, 0, 1, 7]), mixing)
    expected_BC = [rows_NC[0], 0.75 * rows_NC[0] + 0.25 * rows_NC[1], 0.5 * rows_NC[1], rows_NC[0]]
    torch.testing.assert_close(found_BC, torch.stack(expected_BC))
    assert torch.equal(made.rows_RC, rows_NC)  # not written to
