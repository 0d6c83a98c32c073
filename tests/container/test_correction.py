"""Files that promise a greatest KL of every row: written, read, appended to, recovered, transcoded."""

from __future__ import annotations

import contextlib
import itertools
import pickle

import numpy as np
import pytest
import torch

import softpack
from softpack.codecs.registry import make_codec
from softpack.container import promise, tile_writer
from softpack.container.blockfile import PARTIAL
from softpack.container.file import SpkFile
from softpack.container.repack import repack
from softpack.container.stages import bits_at_stages
from softpack.errors import CodecError, CorruptError, DataError
from softpack.format.layout import BLOCK, BlockType
from softpack.records import LabelSpec
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source
from softpack.testing import random_rows

CLASSES = 100
CODECS = {
    "raw": {"dtype": "bf16"},
    "quantize": {"bits": 1},
    "topk": {"k": 5},
    "topk min": {"k": 5, "tail": "min"},
    "topk bucket": {"k": 5, "tail": "bucket"},
    "lowrank": {"rank": 3, "bits": 4},
    "klt": {"bits": 30.0},
    "vqae": {"slots": 2, "k": 8, "d_c": 2, "d_h": 8, "steps": 20},
}


def teacher(n=60, classes=CLASSES, space="logits", temperature=1.0, seed=0):
    return random_rows(LabelSpec(classes, space, temperature), n, seed)


def write(path, rows_BC, codec="quantize", views=6, **options):
    settings = {"max_kl": 0.3, "space": "logits", **options}
    with softpack.create(path, codec.split()[0], classes=rows_BC.shape[1], **settings) as writer:
        for start in range(0, len(rows_BC), 17):
            item, view = np.divmod(np.arange(start, min(start + 17, len(rows_BC))), views)
            writer.append(rows_BC[start : start + 17], item=item, view=view)
    return path


def cells_of(rows_BC, views=6):
    return np.divmod(np.arange(len(rows_BC)), views)


def worst(labels, rows_BC, space="logits", temperature=1.0, temperatures=(1, 4, 20)):
    """Return the largest KL, as `softpack.fidelity` measures it, of rows in the order of their cells."""
    from softpack.codecs.spaces import to_logits

    found = to_logits(labels.read(*cells_of(rows_BC)), labels.spec)
    given = to_logits(rows_BC, LabelSpec(rows_BC.shape[1], space, temperature))
    measured = softpack.fidelity(found, given, temperatures)
    return max(divergence.kl_max for divergence in measured.temperatures.values())


def correction_blocks(path):
    file = SpkFile(path)
    number, _ = file.header.stream("correction")
    return np.flatnonzero((file.blocks["type"] == BlockType.TILE) & (file.blocks["stream"] == number))


@pytest.mark.parametrize("max_kl", [1.0, 0.1, 1e-4])
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_keeps_its_promise(tmp_path, codec, max_kl):
    rows_BC = teacher()
    labels = softpack.open(write(tmp_path / "a.spk", rows_BC, codec, max_kl=max_kl, **CODECS[codec]))

    assert worst(labels, rows_BC) <= max_kl
    assert labels.promise.max_kl == max_kl
    assert torch.equal(labels.load().read(*cells_of(rows_BC)), labels.read(*cells_of(rows_BC)))
    assert softpack.verify(tmp_path / "a.spk").problems == ()
    assert softpack.ledger(tmp_path / "a.spk").total_bits == 8 * (tmp_path / "a.spk").stat().st_size
    assert labels.file.minor == 2


@pytest.mark.parametrize(("space", "temperature"), [("log_probs", 1.0), ("log_probs", 4.0), ("probs", 2.0)])
@pytest.mark.parametrize("codec", ["raw", "topk", "lowrank", "klt"])
def test_every_space_keeps_its_promise(tmp_path, codec, space, temperature):
    rows_BC = teacher(space=space, temperature=temperature)
    options = {"space": space, "temperature": temperature, "max_kl": 1e-4, **CODECS[codec]}
    labels = softpack.open(write(tmp_path / "a.spk", rows_BC, codec, **options))

    assert worst(labels, rows_BC, space, temperature) <= 1e-4
    found = labels.read(*cells_of(rows_BC))
    assert torch.equal(labels.load().read(*cells_of(rows_BC)), found)
    if labels.spec.space != "logits":
        mass_B = (found.exp() if labels.spec.space == "log_probs" else found).sum(1)
        torch.testing.assert_close(mass_B, torch.ones(len(mass_B)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("n", "classes"), [(1, 10), (1, 2), (50, 2), (3, 1000), (2, 5003)])
def test_odd_sizes_keep_their_promise(tmp_path, n, classes):
    rows_BC = teacher(n, classes)
    labels = softpack.open(write(tmp_path / "a.spk", rows_BC, "quantize", bits=1, max_kl=0.01))

    assert worst(labels, rows_BC) <= 0.01
    assert torch.equal(labels.load().read(*cells_of(rows_BC)), labels.read(*cells_of(rows_BC)))


def test_rows_without_corrections_are_those_of_a_file_without_a_promise(tmp_path):
    rows_BC = teacher()
    rows_BC[::2] = rows_BC[::2].sign() * 3  # two levels hold these exactly
    plain = softpack.open(write(tmp_path / "plain.spk", rows_BC, bits=1, max_kl=None))
    labels = softpack.open(write(tmp_path / "a.spk", rows_BC, bits=1, max_kl=0.3))
    cells = cells_of(rows_BC)

    found = labels.corrections(*cells)
    is_corrected_B = np.isin(np.arange(len(rows_BC)), found.row_E)
    assert is_corrected_B[1::2].all()
    assert not is_corrected_B[::2].any()
    same_B = (labels.read(*cells) == plain.read(*cells)).all(1).numpy()
    np.testing.assert_array_equal(same_B, ~is_corrected_B)
    assert plain.promise is None
    assert len(plain.corrections(*cells)) == 0
    assert plain.file.header.stream("correction") is None
    assert (plain.file.minor, labels.file.minor) == (0, 2)


def test_a_promise_that_needs_no_corrections_has_no_blocks_of_them(tmp_path):
    rows_BC = teacher()
    labels = softpack.open(write(tmp_path / "a.spk", rows_BC, "raw", dtype="fp32"))

    assert labels.promise.max_kl == 0.3
    assert not len(correction_blocks(tmp_path / "a.spk"))
    assert torch.equal(labels.read(*cells_of(rows_BC)), rows_BC)
    assert torch.equal(labels.load().read(*cells_of(rows_BC)), rows_BC)
    assert labels.load().n_bytes == 60 * CLASSES * 4


def test_rows_are_corrected_in_any_order_and_as_often_as_they_are_asked_for(tmp_path):
    rows_BC = teacher()
    labels = softpack.open(write(tmp_path / "a.spk", rows_BC, bits=1, tile=(2, 4)))
    item, view = cells_of(rows_BC)
    whole, order = labels.read(item, view), np.random.default_rng(0).integers(0, 60, 200)

    assert torch.equal(labels.read(item[order], view[order]), whole[order])
    assert torch.equal(labels.load().read(item[order], view[order]), whole[order])
    assert torch.equal(labels[3, 2], whole[3 * 6 + 2])
    assert torch.equal(labels[3], whole[18:24])
    assert torch.equal(pickle.loads(pickle.dumps(labels)).read(item, view), whole)
    assert torch.equal(pickle.loads(pickle.dumps(labels.load())).read(item, view), whole)
    assert labels.read([], []).shape == labels.load().read([], []).shape == (0, CLASSES)
    assert labels.load().n_bytes > softpack.open(tmp_path / "a.spk", stages=1).codec.bits_per_label() * 60 / 8


def test_rows_that_come_in_any_order_in_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_writer, "PENDING_BYTES", 20_000)
    rows_BC, (item, view) = teacher(), cells_of(teacher())
    order = np.random.default_rng(1).permutation(60)
    with softpack.create(
        tmp_path / "a.spk", "quantize", classes=CLASSES, bits=1, max_kl=0.1, tile=(3, 4)
    ) as writer:
        for batch in np.array_split(order, 9):
            writer.append(rows_BC[batch], item=item[batch], view=view[batch])
    labels = softpack.open(tmp_path / "a.spk")
    one = softpack.open(write(tmp_path / "one.spk", rows_BC, bits=1, max_kl=0.1))

    assert len(labels.file.parts) > 8
    assert worst(labels, rows_BC) <= 0.1
    assert torch.equal(labels.read(item, view), one.read(item, view))


def test_the_same_rows_give_the_same_bytes(tmp_path):
    rows_BC = teacher()
    one, two = (write(tmp_path / name, rows_BC, "vqae", **CODECS["vqae"]) for name in ("1.spk", "2.spk"))

    assert one.read_bytes() == two.read_bytes()


def test_corrections_are_a_line_of_the_ledger(tmp_path):
    rows_BC = teacher()
    entries = softpack.ledger(write(tmp_path / "a.spk", rows_BC, bits=1)).entries
    (found,) = [entry for entry in entries if entry.what == "corrections"]

    assert found.scope == "codes"
    assert found.n_bits > 0
    assert not any(entry.what == "corrections" for entry in softpack.ledger(
        write(tmp_path / "b.spk", rows_BC, bits=1, max_kl=None)).entries)  # fmt: skip


# -- appending and recovery ----------------------------------------------------------------------------------


def test_rows_that_are_appended_are_held_to_the_promise(tmp_path):
    rows_BC = teacher(90)
    path = write(tmp_path / "a.spk", rows_BC[:41], "lowrank", appendable=True, max_kl=0.05, rank=3, bits=4,
                 temperatures=(1, 7))  # fmt: skip
    with softpack.append(path) as writer:
        item, view = cells_of(rows_BC)
        writer.append(rows_BC[41:], item=item[41:], view=view[41:])
    labels = softpack.open(path)

    assert labels.promise.temperatures == (1.0, 7.0)
    assert worst(labels, rows_BC, temperatures=(1, 7)) <= 0.05
    assert softpack.verify(path).problems == ()


def test_under_autocast_rows_are_encoded_and_corrected_as_without(tmp_path):
    rows_BC = teacher()
    again = tmp_path / "a.spk"
    fitted = make_codec("lowrank", LabelSpec(CLASSES), {"rank": 3, "bits": 4}).fit([rows_BC])
    with torch.autocast("cpu", torch.bfloat16), softpack.create(again, fitted, max_kl=0.01) as writer:
        writer.append(rows_BC, item=cells_of(rows_BC)[0], view=cells_of(rows_BC)[1])

    assert worst(softpack.open(again), rows_BC) <= 0.01


def test_a_stopped_writer_leaves_no_rows_without_their_corrections(tmp_path):
    rows_BC = teacher()
    path = write(tmp_path / "a.spk", rows_BC, bits=1, max_kl=0.1, tile=(2, 6))
    data, file = path.read_bytes(), SpkFile(path)
    whole, cells = softpack.open(path).read(*cells_of(rows_BC)), cells_of(rows_BC)
    blocks = [(int(file.offsets[n]), int(file.blocks[n]["stream"])) for n in range(len(file.blocks))]
    blocks.append((int(file.offsets[-1]), 0))
    kept = {}
    for (_, stream), (stop, _) in itertools.pairwise(blocks):
        cut = tmp_path / f"{stop}.spk{PARTIAL}"
        cut.write_bytes(data[:stop])
        with contextlib.suppress(CorruptError):  # none of its labels is whole
            found = softpack.recover(cut)
            labels = softpack.open(found.path)
            present = labels.has(*cells)
            assert torch.equal(labels.read(cells[0][present], cells[1][present]), whole[present])
            assert softpack.verify(found.path).problems == ()
            kept[stop] = (found.n_rows, stream, *found.lost)

    counts = [n_rows for n_rows, *_ in kept.values()]
    assert sorted(set(counts)) == [12, 24, 36, 48, 60]
    after_corrections = [lost for _, stream, *lost in kept.values() if stream == 2]
    assert len(after_corrections) == 4
    assert "the labels of items 2 to 3, views 0 to 5 (" in after_corrections[0][0]


def test_damaged_corrections_take_their_rows_with_them(tmp_path):
    rows_BC = teacher()
    path = write(tmp_path / "a.spk", rows_BC, bits=1, max_kl=0.1, tile=(2, 6))
    whole, cells = softpack.open(path).read(*cells_of(rows_BC)), cells_of(rows_BC)
    number = correction_blocks(path)[1]
    data = bytearray(path.read_bytes())
    data[int(SpkFile(path).offsets[number]) + BLOCK.size + 20] ^= 8
    path.write_bytes(data)

    (problem,) = softpack.verify(path).problems
    assert f"block {number} (tile): the payload fails its checksum" in problem
    assert "12 labels of items 2 to 3, views 0 to 5, cannot be read" in problem
    with pytest.raises(CorruptError, match="fails its checksum"):
        softpack.open(path).read([2], [0])
    found = softpack.recover(path)

    assert found.n_rows == 48
    assert any("12 labels of items 2 to 3, views 0 to 5" in lost for lost in found.lost)
    labels = softpack.open(path)
    present = labels.has(*cells)
    assert present.sum() == 48
    assert torch.equal(labels.read(cells[0][present], cells[1][present]), whole[present])


# -- stages and transcoding ----------------------------------------------------------------------------------

STAGED = {"slots": 2, "k": 8, "d_c": 2, "d_h": 8, "d_x": 4, "steps": 40, "stages": 2, "context": True}


@pytest.fixture(scope="module")
def source(views_of_items, tmp_path_factory):
    path = tmp_path_factory.mktemp("staged") / "views.npz"
    np.savez(path, **views_of_items(items=40, views=10, mixed=0.3))
    return open_source(path)


@pytest.fixture(scope="module")
def staged(source):
    """A file of two stages with context, and the same without a promise."""
    model = fit_model(source, "vqae", STAGED)
    paths = [source.path.with_name(name) for name in ("promised.spk", "plain.spk")]
    for path, max_kl in zip(paths, (0.05, None), strict=True):
        encode_source(source, path, model, max_kl=max_kl, temperatures=(1, 20))
    return paths


def test_rows_given_context_keep_their_promise(source, staged):
    labels = softpack.open(staged[0])
    found = softpack.fidelity(labels, source, (1, 20))

    assert max(at.kl_max for at in found.temperatures.values()) <= 0.05
    cells = labels.cells()
    assert 0 < labels.corrections(*cells).n_rows < labels.n_rows
    resident, streamed = labels.load().read(*cells), labels.read(*cells)
    torch.testing.assert_close(resident, streamed, rtol=0, atol=1e-5)


def test_fewer_stages_know_no_corrections(staged, tmp_path):
    promised, plain = (softpack.open(path, stages=1) for path in staged)
    cells = promised.cells()

    assert promised.promise is None
    assert torch.equal(promised.read(*cells), plain.read(*cells))
    assert torch.equal(promised.load().read(*cells), plain.load().read(*cells))
    repack(staged[0], tmp_path / "one.spk", stages=1)
    one = softpack.open(tmp_path / "one.spk")
    assert one.file.header.correction is None
    assert one.file.header.stream("correction") is None
    assert torch.equal(one.read(*cells), plain.read(*cells))
    # Corrections go when the last stage does.
    one_stage, whole = bits_at_stages(SpkFile(staged[0]))
    found = softpack.ledger(staged[0])
    corrections = sum(entry.n_bits for entry in found.entries if entry.what == "corrections") / 400
    assert whole == pytest.approx(found.marginal_bits_per_label)
    assert whole - one_stage >= corrections + 6
    assert softpack.ledger(tmp_path / "one.spk").marginal_bits_per_label <= one_stage


def test_repacked_files_keep_corrections_and_promise(staged, tmp_path):
    repack(staged[0], tmp_path / "again.spk")
    old, new = softpack.open(staged[0]), softpack.open(tmp_path / "again.spk")

    assert new.promise == old.promise
    assert torch.equal(new.read(*old.cells()), old.read(*old.cells()))
    assert new.file.header.stream("correction")


def test_decoded_and_encoded_again_labels_are_the_corrected_ones(staged, tmp_path):
    labels = softpack.open(staged[0])
    again = open_source(staged[0])
    encode_source(again, tmp_path / "raw.spk", make_codec("raw", again.spec, {"dtype": "fp32"}))
    raw = softpack.open(tmp_path / "raw.spk")

    torch.testing.assert_close(raw.read(*raw.cells()), labels.read(*raw.cells()), rtol=0, atol=1e-5)


# -- refusals ------------------------------------------------------------------------------------------------


def test_a_codec_that_loses_classes_cannot_promise(tmp_path):
    message = r"a\.spk: item 0, view 0 decodes to a probability of zero .* such as topk with tail=uniform"
    with pytest.raises(DataError, match=message):
        write(tmp_path / "a.spk", teacher(), "topk", k=5, tail="zero")
    assert not list(tmp_path.iterdir())


def test_rows_that_cannot_be_held_to_a_promise_are_named_and_not_taken(tmp_path, monkeypatch):
    rows_BC = teacher(4, 3)
    with softpack.create(tmp_path / "a.spk", "quantize", classes=3, bits=1, max_kl=1e-3) as writer:
        writer.append(rows_BC, item=[0, 1, 2, 3], view=0)
        monkeypatch.setattr(promise, "MAX_VALUE", 1)
        with pytest.raises(DataError, match=r"a\.spk: item 9, view 5 cannot be brought to a KL of 0\.001"):
            writer.append(rows_BC[[0, 3]] * torch.tensor([[0.0], [1.0]]), item=[8, 9], view=5)

    assert softpack.open(tmp_path / "a.spk").n_rows == 4


@pytest.mark.parametrize("max_kl", [0, -0.3, float("nan")])
def test_promises_that_are_none_are_refused_before_anything_is_written(tmp_path, max_kl):
    with pytest.raises(CodecError, match=r"max_kl is .*; expected a positive number of nats, such as 0\.3"):
        softpack.create(tmp_path / "a.spk", "raw", classes=3, max_kl=max_kl)
    assert not list(tmp_path.iterdir())


def test_temperatures_are_those_of_the_codec_too(tmp_path):
    made = softpack.create(tmp_path / "a.spk", "vqae", classes=3, max_kl=0.3, temperatures=(1, 2.5))
    assert made.codec.temperatures == "1,2.5"
    made.abandon()
    made = softpack.create(tmp_path / "a.spk", "vqae", classes=3, temperatures="4")
    assert made.codec.temperatures == "4"
    made.abandon()
    with pytest.raises(CodecError, match="codec raw has no setting temperatures"):
        softpack.create(tmp_path / "a.spk", "raw", classes=3, temperatures=(1, 2))
    with pytest.raises(CodecError, match="temperatures is '1,cold'; expected 1 to 16 numbers"):
        softpack.create(tmp_path / "a.spk", "vqae", classes=3, temperatures="1,cold")


def test_a_tile_that_could_not_hold_its_corrections_is_refused(tmp_path):
    options = {"classes": 1000, "tile": (256, 256)}
    with softpack.create(tmp_path / "a.spk", "topk", **options) as writer:
        writer.append(teacher(1, 1000), item=0, view=0)
    with (
        pytest.raises(DataError, match="tile is 256 items x 256 views; expected 1 to 33554 rows"),
        softpack.create(tmp_path / "b.spk", "topk", max_kl=1.0, **options) as writer,
    ):
        writer.append(teacher(1, 1000), item=0, view=0)
