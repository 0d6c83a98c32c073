from __future__ import annotations

import json

import numpy as np
import pytest

import softpack
from softpack.errors import DataError
from softpack.rate.choose import Wanted, choose
from softpack.sources import encoding, open_source
from softpack.sources.encoding import encode_source
from softpack.sources.peers.asked import Asked
from softpack.sources.peers.given import Given
from softpack.sources.peers.to_vllm import write_vllm
from softpack.sources.resuming import Encoding
from tests.sources import teachers

GIVEN = Given(classes=teachers.CLASSES)


def rows_of(source, n_rows=1000):
    return {
        (item, view): (ids[ids >= 0].tolist(), values[ids >= 0].tolist())
        for block in source.blocks(n_rows)
        for item, view, ids, values in zip(
            block.item_B.tolist(),
            block.view_B.tolist(),
            block.sparse.ids_BK,
            block.sparse.log_probs_BK,
            strict=True,
        )
    }


def tokens_of(source):
    return np.concatenate([block.replay["token"] for block in source.blocks(1000)])


def lines_of(said, extra=True, plain=False):
    """Return lines as vLLM gives them: the k likeliest, and in every other row the prompt's own token, out of rank."""
    lines = []
    for ids, values, tokens in zip(said.ids, said.log_probs, said.tokens, strict=True):
        entries = [None]
        for position, (row, value) in enumerate(zip(ids.tolist(), values.tolist(), strict=True)):
            entry = {
                str(token): number if plain else {"logprob": number, "rank": rank, "decoded_token": "x"}
                for rank, (token, number) in enumerate(zip(row, value, strict=True), 1)
            }
            own = str(tokens[position + 1])
            if extra and position % 2 and own not in entry:
                entry = {own: -15.5 if plain else {"logprob": -15.5, "rank": 400}} | entry
            entries.append(entry)
        lines.append({"prompt_token_ids": tokens.tolist(), "prompt_logprobs": entries})
    return lines


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("plain", [False, True])
def test_every_row_of_json_lines(tmp_path, plain):
    said = teachers.say()
    source = open_source(write_lines(tmp_path / "a.jsonl", lines_of(said, plain=plain)), given=GIVEN)

    found = rows_of(source)

    assert (source.items, source.n_rows, source.kept) == (3, 12, 12)
    for item, (ids, values) in enumerate(zip(said.ids, said.log_probs, strict=True)):
        for view, (row, value) in enumerate(zip(ids.tolist(), values.tolist(), strict=True)):
            got_ids, got = found[item, view]
            own = [int(said.tokens[item][view + 1])] if view % 2 else []
            assert got_ids == own + row
            assert got[len(own) :] == pytest.approx(value)
    np.testing.assert_array_equal(tokens_of(source), np.concatenate([one[1:] for one in said.tokens]))
    np.testing.assert_array_equal(source.item_columns["length"], [5, 1, 9])


def test_bare_lists_and_what_a_server_answers(tmp_path):
    said = teachers.say((4, 3))
    bare, whole = lines_of(said, extra=False)
    lines = [bare["prompt_logprobs"], {"id": "x", "choices": [{"index": 0, **whole}]}]
    source = open_source(write_lines(tmp_path / "a.jsonl", lines), given=GIVEN)

    assert sorted(rows_of(source)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert source.columns == ()  # one line does not say its tokens


def test_tokens_that_cannot_be_are_none(tmp_path):
    lines = [[None, {"3": -0.5, "4": -9999.0, "5": float("-inf")}]]
    source = open_source(write_lines(tmp_path / "a.jsonl", lines), given=GIVEN)

    assert rows_of(source)[0, 0][0] == [3]


def test_a_folder_of_lines(tmp_path):
    said = teachers.say((4, 3))
    (tmp_path / "set").mkdir()
    for number, line in enumerate(lines_of(said)):
        write_lines(tmp_path / "set" / f"part-{number}.jsonl", [line])

    assert open_source(tmp_path / "set", given=GIVEN).items == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', "line 2: is no JSON"),
        ('{"a": 1}', "line 2: holds no list of prompt_logprobs"),
        ("[null, null]", "line 2, position 1: is None; expected an object"),
        ('[null, {"a": -1.0}]', r'line 2, position 1: is {\'a\': -1.0}; expected {"TOKEN": LOGPROB}'),
        (
            '{"prompt_token_ids": [1, 2], "prompt_logprobs": [{"3": -1.0}, {"3": -1.0}]}',
            "2 prompt_token_ids and 2 pos",
        ),
        ('{"prompt_token_ids": [1, 2000], "prompt_logprobs": [null, {"3": -1.0}]}', "token 2000 at place 1"),
    ],
)
def test_a_bad_line_is_named_and_left_out(tmp_path, line, message):
    good = json.dumps(lines_of(teachers.say((4,)))[0])
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n{good}\n")

    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "a.jsonl", given=GIVEN)

    source = open_source(tmp_path / "a.jsonl", given=Given(classes=teachers.CLASSES, skip_bad=True))
    assert source.items == 2
    assert len(source.skipped) == 1


def test_a_token_beyond_the_vocabulary_is_named(tmp_path):
    source = open_source(write_lines(tmp_path / "a.jsonl", [[None, {"5000": -1.0}]]), given=GIVEN)

    with pytest.raises(DataError, match=r"line 1: a class of row 0 .* expected 0 to 999"):
        rows_of(source)


def test_probabilities_are_refused(tmp_path):
    source = open_source(write_lines(tmp_path / "a.jsonl", [[None, {"5": 0.9, "6": 0.1}]]), given=GIVEN)

    with pytest.raises(DataError, match=r"line 1: a log-probability of row 0 .* is 0.9; expected 0 at most"):
        rows_of(source)


# -- arrays --------------------------------------------------------------------------------------------


def arrays_of(said):
    return {
        "token_ids": np.concatenate(said.ids).astype(np.int32),
        "logprobs": np.concatenate(said.log_probs),
        "lengths": np.array([len(of) for of in said.ids]),
        "tokens": np.concatenate([one[1:] for one in said.tokens]).astype(np.int32),
    }


@pytest.mark.parametrize("where", ["lengths", "offsets", "npy"])
def test_every_row_of_arrays(tmp_path, where):
    said = teachers.say()
    arrays, path = arrays_of(said), tmp_path / "a.npz"
    if where == "offsets":
        arrays["offsets"] = np.concatenate([[0], np.cumsum(arrays.pop("lengths"))])
    if where == "npy":
        path = tmp_path / "set"
        path.mkdir()
        for name, values in arrays.items():
            np.save(path / f"{name}.npy", values)
    else:
        np.savez(path, **arrays)
    source = open_source(path, kind=None if where == "npy" else "vllm", given=GIVEN)

    found = rows_of(source)

    for item, (ids, values) in enumerate(zip(said.ids, said.log_probs, strict=True)):
        for view, (row, value) in enumerate(zip(ids.tolist(), values.tolist(), strict=True)):
            assert found[item, view] == (row, value)
    np.testing.assert_array_equal(tokens_of(source), arrays["tokens"])


def test_what_arrays_do_not_say_is_asked_for_at_once(tmp_path):
    arrays = arrays_of(teachers.say())
    del arrays["lengths"]
    np.savez(tmp_path / "a.npz", **arrays)

    with pytest.raises(DataError, match=r"--classes C\); nor where sequences end.*\(--sequence-length N"):
        open_source(tmp_path / "a.npz", kind="vllm")

    source = open_source(
        tmp_path / "a.npz", kind="vllm", given=Given(classes=teachers.CLASSES, sequence_length=4)
    )
    assert (source.items, source.views) == (3, 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lengths": np.array([4, 9])}, "12 rows, and sequences of 13 in all"),
        ({"tokens": np.zeros(3, np.int32)}, r"tokens \[3\]; expected one for each of 12 rows"),
        ({"logprobs": np.zeros((12, 3), np.float32)}, r"token_ids \[12, 12\] and logprobs \[12, 3\]"),
        ({"token_ids": np.zeros((12, 12), np.float32)}, "token_ids of float32"),
        ({"lengths": np.array([13, -1])}, "a sequence of -1 rows"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, changed, message):
    np.savez(tmp_path / "a.npz", **(arrays_of(teachers.say()) | changed))

    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "a.npz", kind="vllm", given=GIVEN)


def test_a_class_twice_is_named_and_left_out(tmp_path):
    arrays = arrays_of(teachers.say())
    arrays["token_ids"][7, 1] = arrays["token_ids"][7, 0]
    np.savez(tmp_path / "a.npz", **arrays)

    with pytest.raises(DataError, match=r"the classes of row 7 \(item 2, view 3\) .* expected each class once"):
        rows_of(open_source(tmp_path / "a.npz", kind="vllm", given=GIVEN))

    source = open_source(tmp_path / "a.npz", kind="vllm", given=Given(classes=teachers.CLASSES, skip_bad=True))
    assert rows_of(source) == {}
    assert "row 7" in next(iter(source.skipped.values()))


# -- and back ------------------------------------------------------------------------------------------


@pytest.fixture
def spk(tmp_path):
    said = teachers.say((5, 2, 9))
    source = open_source(write_lines(tmp_path / "in.jsonl", lines_of(said, extra=False)), given=GIVEN)
    encode_source(source, tmp_path / "a.spk", choose(source, Wanted(settings={"value": "fp32"})))
    return tmp_path / "a.spk", source


@pytest.mark.parametrize("name", ["out.jsonl", "out.npz"])
def test_there_and_back(spk, tmp_path, name):
    path, source = spk

    write_vllm(path, tmp_path / name, Asked())
    again = open_source(tmp_path / name, kind="vllm", given=GIVEN)

    found, expected = rows_of(again), rows_of(source)
    assert found.keys() == expected.keys()
    for cell, (ids, values) in expected.items():
        assert found[cell][0] == ids
        assert found[cell][1] == pytest.approx(values, abs=1e-6)
    np.testing.assert_array_equal(tokens_of(again), tokens_of(source))
    for name in ("length", "first_token", "token_hash"):
        np.testing.assert_array_equal(again.item_columns[name], source.item_columns[name])


def test_fewer_tokens(spk, tmp_path):
    path, source = spk

    write_vllm(path, tmp_path / "out.jsonl", Asked(k=3))

    found = rows_of(open_source(tmp_path / "out.jsonl", given=GIVEN))
    assert {cell: ids for cell, (ids, _) in found.items()} == {
        cell: ids[:3] for cell, (ids, _) in rows_of(source).items()
    }


def test_an_output_of_another_kind_is_refused(spk, tmp_path):
    with pytest.raises(DataError, match=r"ends in .csv; expected .jsonl, for JSON lines, or .npz, for arrays"):
        write_vllm(spk[0], tmp_path / "out.csv", Asked())


def test_labels_of_which_all_are_known(tmp_path):
    logits = np.random.default_rng(0).normal(size=(2, 3, 10)).astype(np.float32)
    with softpack.create(tmp_path / "a.spk", "raw", classes=10) as writer:
        writer.append(logits.reshape(6, 10), item=[0, 0, 0, 1, 1, 1], view=[0, 1, 2] * 2)

    with pytest.raises(DataError, match="say how many to keep, such as --k 64"):
        write_vllm(tmp_path / "a.spk", tmp_path / "out.npz", Asked())
    write_vllm(tmp_path / "a.spk", tmp_path / "out.npz", Asked(k=4))

    found = rows_of(open_source(tmp_path / "out.npz", kind="vllm", given=Given(classes=10)))
    for (item, view), (ids, values) in found.items():
        row = logits[item, view]
        assert ids == np.argsort(-row)[:4].tolist()
        assert values == pytest.approx(row[ids] - np.log(np.exp(row).sum()), abs=5e-3)


def test_a_hole_in_a_sequence_is_refused(tmp_path):
    with softpack.create(tmp_path / "a.spk", "raw", classes=10) as writer:
        writer.append(np.zeros((2, 10), np.float32), item=[0, 0], view=[0, 2])

    with pytest.raises(DataError, match="item 0 has no view 1; the layout has all positions"):
        write_vllm(tmp_path / "a.spk", tmp_path / "out.npz", Asked(k=4))


def test_an_encoding_that_was_interrupted_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "COMMIT_NUMBERS", 100)
    said = teachers.say((60, 60, 60))
    np.savez(tmp_path / "a.npz", **arrays_of(said))
    run = Encoding(tmp_path / "a.spk", "run")

    def stop(done, total):
        if done > 50:
            raise KeyboardInterrupt

    monkeypatch.setattr("softpack.sources.peers.vllm.PART_ROWS", 20)
    source = open_source(tmp_path / "a.npz", kind="vllm", given=GIVEN)
    monkeypatch.setattr(type(source), "block_rows", 20)
    with pytest.raises(KeyboardInterrupt):
        run.encode(source, choose(source, Wanted()), stop)
    left = run.left()
    assert 0 < left.n_rows < source.n_rows
    run.encode(source, None)

    labels = softpack.open(tmp_path / "a.spk")
    np.testing.assert_array_equal(labels.read_sparse(*labels.cells()).ids_BK, np.concatenate(said.ids))
