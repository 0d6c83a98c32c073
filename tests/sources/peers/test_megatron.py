from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
import zstandard

import softpack
from softpack.errors import DataError
from softpack.rate.choose import Wanted, choose
from softpack.sources import open_source
from softpack.sources.encoding import encode_source
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import Given
from softpack.sources.peers.to_megatron import write_megatron
from tests.sources import teachers
from tests.sources.teachers import Ranks

CLASSES = 131_072
GIVEN = Given(classes=CLASSES)


def rows_of(source, n_rows=1000):
    """Return the ids and log-probabilities of rows that are there, by (item, view)."""
    rows = {}
    for block in source.blocks(n_rows):
        for item, view, ids, values in zip(
            block.item_B.tolist(),
            block.view_B.tolist(),
            block.sparse.ids_BK,
            block.sparse.log_probs_BK,
            strict=True,
        ):
            rows[item, view] = ids[ids >= 0], values[ids >= 0]
    return rows


@pytest.mark.parametrize(
    "ranks", [Ranks(), Ranks(dp=1, first=0), Ranks(cp=2), Ranks(cp=4, dp=1, sequences=1)], ids=str
)
def test_every_row_is_what_was_written(tmp_path, ranks):
    expected = teachers.write_megatron(tmp_path / "set", ranks)
    source = open_source(tmp_path / "set", given=GIVEN)

    found = rows_of(source)

    assert found.keys() == expected.keys()
    assert source.items == ranks.iterations * ranks.microbatches * ranks.sequences * ranks.dp
    for cell, (ids, values) in expected.items():
        np.testing.assert_array_equal(found[cell][0], ids)
        np.testing.assert_allclose(
            found[cell][1], values, atol=2e-3
        )  # those of more than 1, by fp16, are lowered


def test_the_last_token_is_no_hole(tmp_path):
    """Ids of tokens that are none come back as 131071, which is a token too."""
    values = torch.tensor([[[-0.5, -1.5, -1000.0]], [[-0.1, -1000.0, -1000.0]]], dtype=torch.float16)
    ids = torch.tensor([[[131_071, 2, -1]], [[7, -1, -1]]])
    (tmp_path / "set").mkdir()
    teachers.write_tar(tmp_path / "set" / "cp0_dp0__4.tar", {}, {4: teachers.payload([values], [ids])})

    found = rows_of(open_source(tmp_path / "set", given=GIVEN))

    assert found[0, 0][0].tolist() == [131_071, 2]
    assert found[0, 1][0].tolist() == [7]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_dtypes(tmp_path, dtype):
    values = torch.tensor([[[-0.5, -1.5, -1000.0]]], dtype=dtype)
    (tmp_path / "set").mkdir()
    teachers.write_tar(
        tmp_path / "set" / "cp0_dp0__4.tar", {}, {4: teachers.payload([values], [torch.tensor([[[1, 2, -1]]])])}
    )

    ids, values = rows_of(open_source(tmp_path / "set", given=GIVEN))[0, 0]

    assert ids.tolist() == [1, 2]
    assert values.tolist() == [-0.5, -1.5]


def test_the_vocabulary_is_asked_for(tmp_path):
    teachers.write_megatron(tmp_path / "set", Ranks())

    with pytest.raises(DataError, match=r"how many tokens the padded vocabulary has.*\(--classes C\)"):
        open_source(tmp_path / "set")


def test_ids_beyond_the_vocabulary_are_named(tmp_path):
    teachers.write_megatron(tmp_path / "set", Ranks())

    with pytest.raises(
        DataError, match=r"iteration 3, microbatch 0: a class of row .* expected 0 to 49999; there may be more"
    ):
        rows_of(open_source(tmp_path / "set", given=Given(classes=50_000)))


def test_a_vocabulary_of_more_than_17_bits_is_refused(tmp_path):
    teachers.write_megatron(tmp_path / "set", Ranks())

    with pytest.raises(DataError, match="17 bits, which tell 131072 tokens apart; --classes is 262144"):
        open_source(tmp_path / "set", given=Given(classes=262_144))


def rewritten(path, change):
    """Change the members of a tar, by their names."""
    with tarfile.open(path) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    change(members)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_a_missing_iteration_is_named_and_left_out(tmp_path):
    teachers.write_megatron(tmp_path / "set", Ranks(iterations=3))
    rewritten(tmp_path / "set" / "cp0_dp1__5.tar", lambda members: members.pop("4.pt.zst"))

    with pytest.raises(DataError, match=r"1 files are missing: cp0_dp1__\*.tar/4.pt.zst"):
        open_source(tmp_path / "set", given=GIVEN)

    source = open_source(tmp_path / "set", given=Given(classes=CLASSES, skip_bad=True))
    assert len(rows_of(source)) == 5 * 4 * 8
    assert source.items == 24


def test_a_damaged_iteration_is_named_and_left_out(tmp_path):
    expected = teachers.write_megatron(tmp_path / "set", Ranks(iterations=3))

    def damage(members):
        data = bytearray(members["4.pt.zst"])
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        members["4.pt.zst"] = bytes(data)

    rewritten(tmp_path / "set" / "cp0_dp1__5.tar", damage)

    with pytest.raises(DataError, match=r"cp0_dp1__5.tar: iteration 4"):
        rows_of(open_source(tmp_path / "set", given=GIVEN))

    source = open_source(tmp_path / "set", given=Given(classes=CLASSES, skip_bad=True))
    assert len(rows_of(source)) == len(expected) - 4 * 8
    assert "iteration 4" in next(iter(source.skipped.values()))


def test_an_iteration_twice_is_refused(tmp_path):
    teachers.write_megatron(tmp_path / "set", Ranks())
    path = tmp_path / "set" / "cp0_dp0__4.tar"
    path.with_name("cp0_dp0__9.tar").write_bytes(path.read_bytes())

    with pytest.raises(DataError, match=r"cp0_dp0__9.tar: has iteration 3, as cp0_dp0__4.tar has"):
        open_source(tmp_path / "set", given=GIVEN)


def test_tars_of_another_run_are_refused(tmp_path):
    teachers.write_megatron(tmp_path / "set", Ranks())

    def other(members):
        members["_meta.json"] = json.dumps({"hash": "1e"}).encode()

    rewritten(tmp_path / "set" / "cp0_dp1__4.tar", other)

    with pytest.raises(
        DataError, match=r"cp0_dp1__4.tar: is of another run than cp0_dp0__4.tar, by its hash 1e"
    ):
        open_source(tmp_path / "set", given=GIVEN)


def test_ranks_that_are_missing_are_seen_by_the_length(tmp_path):
    teachers.write_megatron(tmp_path / "set", Ranks(cp=2))
    for file in (tmp_path / "set").glob("cp1*"):
        file.unlink()

    with pytest.raises(DataError, match=r"4 positions a rank, of 1 ranks, and _meta\.json says sequences of 8"):
        open_source(tmp_path / "set", given=GIVEN)


def test_no_code_runs(tmp_path):
    (tmp_path / "set").mkdir()
    data = zstandard.ZstdCompressor().compress(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    teachers.write_tar(tmp_path / "set" / "cp0_dp0__0.tar", {}, {0: data})

    with pytest.raises(DataError, match=r"iteration 0: .*os.system"):
        open_source(tmp_path / "set", given=GIVEN)


# -- and back ------------------------------------------------------------------------------------------


@pytest.fixture
def spk(tmp_path):
    """A file of 8 sequences of 8 positions."""
    teachers.write_megatron(tmp_path / "set", Ranks(k=4))
    values = [torch.log(torch.rand(8, 2, 4).sort(-1, True).values / 8 + 1e-3) for _ in range(4)]
    ids = [torch.rand(8, 2, 9000).argsort(-1)[..., :4] * 14 for _ in range(4)]
    (tmp_path / "full").mkdir()
    teachers.write_tar(tmp_path / "full" / "cp0_dp0__0.tar", {"hash": "0f"}, {0: teachers.payload(values, ids)})
    source = open_source(tmp_path / "full", given=GIVEN)
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted(settings={"value": "fp32"})))
    return tmp_path / "a.spk"


def run(tmp_path, **identifiers):
    path = tmp_path / "run.json"
    path.write_text(
        json.dumps({"seed": 1, "sequence_length": 8, "train_samples": 8, "blend": None} | identifiers)
    )
    return path


def test_there_and_back(spk, tmp_path):
    write_megatron(spk, tmp_path / "out", Asked(batch=4, micro_batch=2, meta=run(tmp_path)))

    found = rows_of(open_source(tmp_path / "out", given=GIVEN))
    expected = rows_of(open_source(tmp_path / "full", given=GIVEN))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["cp0_dp0__1.tar"]
    assert found.keys() == expected.keys()
    for cell, (ids, values) in expected.items():
        np.testing.assert_array_equal(found[cell][0], ids)
        np.testing.assert_allclose(found[cell][1], values, rtol=1e-3)


def test_what_is_written_is_as_the_loader_has_it(spk, tmp_path):
    write_megatron(spk, tmp_path / "out", Asked(batch=4, micro_batch=2, meta=run(tmp_path), dtype="float32"))

    with tarfile.open(tmp_path / "out" / "cp0_dp0__1.tar") as tar:
        names = tar.getnames()
        meta = json.load(tar.extractfile(names[0]))
        data = zstandard.decompress(tar.extractfile("1.pt.zst").read())
    held = torch.load(io.BytesIO(data), weights_only=True)

    assert names == ["_meta.json", "0.pt.zst", "1.pt.zst"]
    # As Megatron computes it: md5 of the identifiers in this order, without spaces.
    assert meta["hash"] == "6058fabd0ae1d3bb45fa8812d43b2696"
    assert meta["saver"] == {"k": 4, "p": None, "min_k": 1, "save_dtype": "fp32"}
    assert [tuple(one.shape) for one in held["values"]] == [(8, 2, 4)] * 2
    assert held["indices_low"][0].dtype == torch.uint16
    assert held["bit_17"][0].dtype == torch.bool
    rows = softpack.open(spk).read_sparse([6] * 8, range(8))
    ids = (held["bit_17"][1][:, 0].long() << 16) | held["indices_low"][1][:, 0].long()
    torch.testing.assert_close(ids, rows.ids_BK)
    torch.testing.assert_close(held["values"][1][:, 0], rows.at(1.0)[0])


def test_the_hash_of_a_tar_is_taken_over(spk, tmp_path):
    write_megatron(
        spk, tmp_path / "out", Asked(batch=4, micro_batch=4, meta=tmp_path / "full" / "cp0_dp0__0.tar")
    )

    with tarfile.open(tmp_path / "out" / "cp0_dp0__1.tar") as tar:
        assert json.load(tar.extractfile("_meta.json"))["hash"] == "0f"


def test_what_is_not_said_is_asked_for_at_once(spk, tmp_path):
    with pytest.raises(
        DataError, match=r"of which run the student is \(--meta JSON.*; nor .*\(--micro-batch N"
    ):
        write_megatron(spk, tmp_path / "out", Asked(batch=4))


@pytest.mark.parametrize(
    ("asked", "said", "message"),
    [
        ({"batch": 3, "micro_batch": 1}, {}, "8 sequences, to be in batches of 3"),
        ({"batch": 4, "micro_batch": 3}, {}, "batches of 4 .* and microbatches of 3"),
        ({"batch": 4, "micro_batch": 2}, {"sequence_length": 16}, "says sequences of 16, and labels are of 8"),
    ],
)
def test_what_does_not_fit_is_refused(spk, tmp_path, asked, said, message):
    with pytest.raises(DataError, match=message):
        write_megatron(spk, tmp_path / "out", Asked(**asked, meta=run(tmp_path, **said)))
    assert not (tmp_path / "out").exists()
