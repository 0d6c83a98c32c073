"""Files whose codes refine one another, read and written anew at several rates."""

from __future__ import annotations

import pickle
import shlex

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import softpack
from softpack.cli import main
from softpack.codecs.registry import make_codec
from softpack.codecs.vqae import VQAE
from softpack.container.create import save_model
from softpack.container.file import SpkFile
from softpack.container.repack import repack
from softpack.container.stages import bits_at_stages, stages_within
from softpack.errors import CodecError, DataError
from softpack.format.layout import BlockType
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source

STAGED = {"slots": 2, "k": 8, "d_c": 2, "d_h": 8, "d_x": 4, "steps": 60, "stages": 3, "context": True}


@pytest.fixture(scope="module")
def source(views_of_items, tmp_path_factory):
    path = tmp_path_factory.mktemp("staged") / "views.npz"
    np.savez(path, **views_of_items(items=40, views=10, mixed=0.3))
    return open_source(path)


@pytest.fixture(scope="module")
def path(source):
    path = source.path.with_name("staged.spk")
    encode_source(source, path, fit_model(source, "vqae", STAGED))
    return path


def kl(labels, source):
    return softpack.fidelity(labels, source, temperatures=(1,)).temperatures[1.0].kl_mean


def marginal(path):
    return softpack.ledger(path).marginal_bits_per_label


def run(line):
    return CliRunner().invoke(main, shlex.split(line), prog_name="softpack")


def test_each_stage_is_a_stream_of_its_own(path):
    labels = softpack.open(path)
    assert labels.n_stages == 3
    names = [stream.name for stream in labels.file.header.streams]
    assert names[:3] == ["codes", "codes_2", "codes_3"]
    assert list(labels.read_codes([0], [0])) == ["index", "index_2", "index_3"]


def test_more_stages_are_better_and_fewer_cost_less_to_read(source, path, monkeypatch):
    read = []
    payload = SpkFile.payload
    monkeypatch.setattr(SpkFile, "payload", lambda file, n: read.append(n) or payload(file, n))
    found = []
    for stages in (1, 2, 3):
        labels = softpack.open(path, stages=stages)
        read.clear()
        labels.read(*labels.cells())
        streams = {int(s) for t, s in labels.file.blocks[read][["type", "stream"]] if t == BlockType.TILE}
        assert {1, 2, 3} & streams == set(range(1, stages + 1))
        assert (labels.n_stages, labels.codec.n_stages) == (stages, stages)
        assert labels.codec.bits_per_label() == 6 * stages
        found.append(kl(labels, source))
    assert found[0] > 1.2 * found[1] > 1.2 * 1.1 * found[2]


@pytest.mark.parametrize("stages", [1, 2])
def test_a_file_of_fewer_stages_holds_what_reading_fewer_gives(path, tmp_path, stages):
    repack(path, tmp_path / "few.spk", stages=stages)
    labels, few = softpack.open(path, stages=stages), softpack.open(tmp_path / "few.spk")
    cells = labels.cells()

    assert few.n_stages == few.codec.n_stages == stages
    assert torch.equal(few.read(*cells), labels.read(*cells))
    assert torch.equal(few.load().read(*cells), labels.load().read(*cells))
    assert (
        few.file.header.config == {**labels.file.header.config, "stages": stages}
        if stages > 1
        else ("stages" not in few.file.header.config)
    )
    names = {stream.name for stream in few.file.header.streams}
    assert {"codes", "codes_2", "codes_3"} & names == {"codes", "codes_2", "codes_3"} - {
        f"codes_{n}" for n in range(stages + 1, 4)
    }
    assert not any(name.startswith("codes_3") for name in few.model.tables)
    assert softpack.ledger(tmp_path / "few.spk").total_bits == 8 * (tmp_path / "few.spk").stat().st_size
    assert (tmp_path / "few.spk").stat().st_size < path.stat().st_size


def test_resident_labels_take_the_memory_of_their_stages(path):
    one, all_three = (softpack.open(path, stages=n).load() for n in (1, 3))
    assert one.n_bytes == 400 * 2  # bits of two slots apart from their other two
    assert all_three.n_bytes == 3 * one.n_bytes


def test_stages_survive_pickling(path):
    labels = softpack.open(path, stages=2)
    cells = labels.cells()
    again = pickle.loads(pickle.dumps(labels))
    assert again.n_stages == 2
    assert torch.equal(again.read(*cells), labels.read(*cells))


def test_bits_at_stages_are_those_of_the_files(path, tmp_path):
    said = bits_at_stages(SpkFile(path))
    assert said[-1] == pytest.approx(marginal(path))
    for stages in (1, 2):
        repack(path, tmp_path / f"{stages}.spk", stages=stages)
        # An index names fewer blocks, and a header fewer streams.
        a_label = 8 / SpkFile(path).commit.n_rows  # of a byte
        assert marginal(tmp_path / f"{stages}.spk") == pytest.approx(said[stages - 1], abs=400 * a_label)
        assert marginal(tmp_path / f"{stages}.spk") <= said[stages - 1]


def test_the_most_stages_within_a_rate(path):
    file = SpkFile(path)
    one, two, three = bits_at_stages(file)
    assert one < two < three
    assert stages_within(file, one - 0.01) is None
    assert [stages_within(file, bits) for bits in (one, two - 0.01, two, three, 1e9)] == [1, 1, 2, 3, 3]


def test_a_file_of_one_stage_says_so(source, tmp_path):
    encode_source(source, tmp_path / "raw.spk", make_codec("raw", source.spec, {}))
    file = SpkFile(tmp_path / "raw.spk")
    assert bits_at_stages(file) == [pytest.approx(marginal(tmp_path / "raw.spk"))]
    with pytest.raises(DataError, match=r"raw\.spk: has 1 stages of codes; 2 were asked for"):
        softpack.open(tmp_path / "raw.spk", stages=2)


def test_a_model_without_rows_can_be_asked(source, tmp_path):
    save_model(tmp_path / "m.spkm", fit_model(source, "vqae", {**STAGED, "steps": 2}))
    assert len(bits_at_stages(SpkFile(tmp_path / "m.spkm"))) == 3


@pytest.mark.parametrize("stages", [0, -1, 4])
def test_stages_that_are_not_there(path, tmp_path, stages):
    with pytest.raises(DataError, match=rf"staged\.spk: has 3 stages of codes; {stages} were asked for"):
        softpack.open(path, stages=stages)
    with pytest.raises(DataError, match=rf"has 3 stages of codes; {stages} were asked for"):
        repack(path, tmp_path / "a.spk", stages=stages)
    assert not list(tmp_path.iterdir())


# -- transcode -----------------------------------------------------------------------------------------------


def test_transcode_drops_stages_without_decoding(path, tmp_path, monkeypatch):
    two = bits_at_stages(SpkFile(path))[1]
    monkeypatch.setattr(VQAE, "decode", lambda *_: pytest.fail("labels were decoded"))

    ran = run(f"transcode '{path}' -o '{tmp_path}/small.spk' --target-bits {two + 0.5} --json")

    assert (ran.exit_code, ran.exception) == (0, None), ran.output
    monkeypatch.undo()
    small, labels = softpack.open(tmp_path / "small.spk"), softpack.open(path, stages=2)
    assert small.n_stages == 2
    assert small.columns == softpack.open(path).columns
    assert torch.equal(small.read(*labels.cells()), labels.read(*labels.cells()))
    assert marginal(tmp_path / "small.spk") <= two + 0.5


def test_transcode_without_replay_stays_within_its_target(path, tmp_path):
    """Who is mixed moves from the replay columns into what the target counts."""
    target = bits_at_stages(SpkFile(path), replay=False)[1]
    assert target > bits_at_stages(SpkFile(path))[1]

    ran = run(f"transcode '{path}' -o '{tmp_path}/small.spk' --no-replay --target-bits {target} --json")

    assert (ran.exit_code, ran.exception) == (0, None), ran.output
    small = softpack.open(tmp_path / "small.spk")
    assert (small.columns, small.n_stages) == ((), 2)
    assert 0.85 * target < marginal(tmp_path / "small.spk") <= target


def test_transcode_keeps_all_stages_where_they_fit(path, tmp_path):
    ran = run(f"transcode '{path}' -o '{tmp_path}/same.spk' --target-bits 500 --json")
    assert (ran.exit_code, ran.exception) == (0, None), ran.output
    labels = softpack.open(path)
    assert torch.equal(softpack.open(tmp_path / "same.spk").read(*labels.cells()), labels.read(*labels.cells()))


def test_appending_to_a_staged_file(source, tmp_path):
    model = fit_model(source, "vqae", {**STAGED, "steps": 20})
    encode_source(source, tmp_path / "a.spk", model, appendable=True)
    (block,) = source.blocks(source.n_rows)
    rows = block.take(slice(0, 5))

    with softpack.append(tmp_path / "a.spk") as more:
        unmixed = {"mix_item": np.full(5, -1), "mix_box_xyxy": np.full((5, 4), -1)}
        more.append(rows.labels_BC, item=rows.item_B, view=rows.view_B + 20, **unmixed)

    labels = softpack.open(tmp_path / "a.spk", stages=2)
    repack(tmp_path / "a.spk", tmp_path / "b.spk", stages=2)
    assert torch.equal(softpack.open(tmp_path / "b.spk").read(*labels.cells()), labels.read(*labels.cells()))
    bits = bits_at_stages(SpkFile(tmp_path / "a.spk"))
    assert bits == sorted(bits)


def test_a_model_of_fewer_stages_cannot_encode(path):
    few = softpack.open(path, stages=2).codec
    with pytest.raises(CodecError, match="has its decoder alone"):
        few.encode(torch.zeros(1, 12), torch.zeros(1, 12))
