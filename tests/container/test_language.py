# ruff: noqa: PT012 (what a writer refuses may come when its context ends)
"""Rows of language in a file: bound to the tokens that they predict, with fingerprints and forced tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import softpack
from softpack.entropy.arrays import DESCRIPTOR
from softpack.errors import CorruptError, DataError
from softpack.format.layout import BlockType
from softpack.sequences import Sequences

TOKENS = [[5, 1, 2], [], [7], [3, 3, 0, 9, 11]]
V = 12


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (n, V)).astype(np.float32)


def write(path, **how):
    with softpack.create(path, "raw", classes=V, dtype="fp32", **{"sequences": TOKENS, **how}) as w:
        w.append(rows(4), item=3, view=np.arange(4))
        w.append(rows(2, 1), item=0, view=np.arange(2))
    return softpack.open(path)


def test_tokens_come_back(tmp_path):
    labels = write(tmp_path / "a.spk")

    assert [labels.tokens(item).tolist() for item in range(4)] == TOKENS
    assert labels.tokens(0).dtype == np.int32
    assert labels.shape == (4, 4, V)
    assert labels.replay([3, 0], [3, 1])["token"].tolist() == [11, 2]
    assert labels.file.minor == 5


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_sequence_without_all_of_its_rows_is_refused_in_the_end(tmp_path, missing):
    views = np.delete(np.arange(4), missing)
    said = (
        f"a.spk: sequence 3 of 5 tokens has 3 rows; expected 4, of the views 0 to 3; view {missing} is missing"
    )
    with (
        pytest.raises(DataError, match=said),
        softpack.create(tmp_path / "a.spk", "raw", classes=V, sequences=TOKENS) as w,
    ):
        w.append(rows(3), item=3, view=views)
        w.append(rows(2), item=0, view=np.arange(2))

    assert not list(tmp_path.iterdir())


def test_a_sequence_without_any_row_is_refused(tmp_path):
    with (
        pytest.raises(DataError, match="sequence 0 of 3 tokens has 0 rows; expected 2, of the views 0 to 1"),
        softpack.create(tmp_path / "a.spk", "raw", classes=V, sequences=TOKENS) as w,
    ):
        w.append(rows(4), item=3, view=np.arange(4))


@pytest.mark.parametrize(("item", "view"), [(0, 2), (2, 0), (1, 0)])
def test_a_row_that_a_sequence_does_not_have_is_refused(tmp_path, item, view):
    with (
        pytest.raises(DataError, match=f"item {item}, view {view}: its sequence has"),
        softpack.create(tmp_path / "a.spk", "raw", classes=V, sequences=TOKENS) as w,
    ):
        w.append(rows(1), item=item, view=view)


def test_tokens_that_are_one_place_off_are_refused(tmp_path):
    with (
        pytest.raises(DataError, match="found tokens that are not those of the sequences; leave token= out"),
        softpack.create(tmp_path / "a.spk", "raw", classes=V, sequences=TOKENS) as w,
    ):
        w.append(rows(2), item=0, view=np.arange(2), token=TOKENS[0][:2])


def test_tokens_that_do_not_fit_the_hash_are_refused(tmp_path):
    columns = Sequences.of(TOKENS).columns()
    with (
        pytest.raises(
            DataError,
            match=r"a.spk: sequence 0 has other tokens than its token_hash was made of; the rows are of",
        ),
        softpack.create(tmp_path / "a.spk", "raw", classes=V) as w,
    ):
        w.set_items(**columns)
        w.append(rows(2), item=0, view=np.arange(2), token=TOKENS[0][:2])


def test_sequences_may_be_said_by_their_columns(tmp_path):
    with softpack.create(tmp_path / "a.spk", "raw", classes=V) as w:
        w.set_items(**Sequences.of(TOKENS).columns())
        w.append(rows(4), item=3, view=[3, 1, 0, 2], token=[11, 0, 3, 9])
        w.append(rows(2), item=0, view=[0, 1], token=[1, 2])

    assert [softpack.open(tmp_path / "a.spk").tokens(item).tolist() for item in range(4)] == TOKENS


def test_rows_of_sequences_need_their_tokens(tmp_path):
    with (
        pytest.raises(DataError, match="the rows come without the tokens that they predict; give token="),
        softpack.create(tmp_path / "a.spk", "raw", classes=V) as w,
    ):
        w.set_items(**Sequences.of(TOKENS).columns())
        w.append(rows(2), item=0, view=[0, 1])


def test_half_of_what_is_said_of_sequences_is_refused(tmp_path):
    with (
        pytest.raises(DataError, match="says of sequences length, but not first_token, token_hash"),
        softpack.create(tmp_path / "a.spk", "raw", classes=V) as w,
    ):
        w.set_items(length=[3])


@pytest.mark.parametrize("length", [0, -1])
def test_a_first_token_of_no_tokens_is_refused(tmp_path, length):
    columns = {"length": [length], "first_token": [4], "token_hash": [[0, 0]]}
    with (
        pytest.raises(DataError, match=f"sequence 0 has length {length} and first_token 4; expected -1"),
        softpack.create(tmp_path / "a.spk", "raw", classes=V) as w,
    ):
        w.set_items(**columns)


def test_a_stopped_writer_leaves_tokens_that_are_not_made_up(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        softpack.create(tmp_path / "a.spk", "raw", classes=V, sequences=TOKENS) as w,
    ):
        w.append(rows(2), item=0, view=np.arange(2))
        w.append(rows(2), item=3, view=np.arange(2))
        w.commit()
        raise KeyboardInterrupt
    softpack.recover(tmp_path / "a.spk.partial")
    labels = softpack.open(tmp_path / "a.spk")

    assert labels.tokens(0).tolist() == TOKENS[0]
    assert softpack.verify(tmp_path / "a.spk").problems == ()
    with pytest.raises(DataError, match="lacks rows of sequence 3, which has 5 tokens: its writer was stopped"):
        labels.tokens(3)
    with softpack.append(tmp_path / "a.spk") as w:
        w.append(rows(2), item=3, view=[2, 3], token=[9, 11])
    assert softpack.open(tmp_path / "a.spk").tokens(3).tolist() == TOKENS[3]


def test_a_writer_that_goes_on_is_held_to_the_sequences_too(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        softpack.create(tmp_path / "a.spk", "raw", classes=V, sequences=TOKENS) as w,
    ):
        w.append(rows(4), item=3, view=np.arange(4))
        w.append(rows(1), item=0, view=0)
        w.commit()
        raise KeyboardInterrupt
    softpack.recover(tmp_path / "a.spk.partial")

    with (
        pytest.raises(DataError, match="sequence 0 has other tokens"),
        softpack.append(tmp_path / "a.spk") as w,
    ):
        w.append(rows(1), item=0, view=1, token=[3])
    with (
        pytest.raises(DataError, match="sequence 0 of 3 tokens has 1 rows"),
        softpack.append(tmp_path / "a.spk"),
    ):
        pass


def test_a_length_that_is_a_lie_takes_no_memory(tmp_path):
    with pytest.raises(KeyboardInterrupt), softpack.create(tmp_path / "a.spk", "raw", classes=V) as w:
        w.set_items(length=[(1 << 31) - 1], first_token=[1], token_hash=[[0, 0]])
        w.append(rows(2), item=0, view=[0, 1], token=[3, 4])
        w.commit()
        raise KeyboardInterrupt
    softpack.recover(tmp_path / "a.spk.partial")

    assert softpack.verify(tmp_path / "a.spk").problems == ()
    with pytest.raises(DataError, match="lacks rows of sequence 0, which has 2147483647 tokens"):
        softpack.open(tmp_path / "a.spk").tokens(0)
    with (
        pytest.raises(DataError, match="sequence 0 of 2147483647 tokens has 2 rows"),
        softpack.append(tmp_path / "a.spk"),
    ):
        pass


@pytest.mark.parametrize(("length", "error"), [(1 << 30, DataError), (-1, CorruptError)])
def test_a_length_that_is_a_lie_takes_no_memory_whatever_the_views(tmp_path, forge, length, error):
    write(tmp_path / "a.spk")
    forged = forge(tmp_path / "a.spk")
    number = forged.find(BlockType.TILE, 3)
    before = forged.blocks[number][1]
    stored = int.from_bytes(before[4:8], "little")
    payload = DESCRIPTOR.pack(0, 0, 0, 0, length) + before[16 + stored :]  # all of the same length
    forged.change(number, payload, raw_len=len(payload))
    forged.write(tmp_path / "a.spk", commit=lambda commit: replace(commit, views=1 << 31))
    labels = softpack.open(tmp_path / "a.spk")

    for item in range(4):  # one of which has no first token
        with pytest.raises((error, CorruptError), match=f"sequence {item}.* has {length} tokens"):
            labels.tokens(item)


def test_a_row_that_is_there_twice_is_refused(tmp_path):
    with (
        pytest.raises(DataError, match="item 0, view 0 is there twice"),
        softpack.create(tmp_path / "a.spk", "raw", classes=V, sequences=[[1, 2, 3]]) as w,
    ):
        w.append(rows(3), item=0, view=[0, 0, 1])


def test_verify_finds_tokens_of_another_sequence(tmp_path, monkeypatch):
    monkeypatch.setattr("softpack.container.binding.token_hash", lambda tokens: (1, 2))
    monkeypatch.setattr("softpack.sequences.token_hash", lambda tokens: (1, 2))
    labels = write(tmp_path / "a.spk")
    monkeypatch.undo()

    (problem,) = softpack.verify(tmp_path / "a.spk").problems
    assert "sequence 1 has other tokens than its token_hash was made of" in problem
    with pytest.raises(CorruptError, match=r"a.spk: sequence 3 has other tokens than its token_hash"):
        labels.tokens(3)


def test_check_tokens_names_sequence_and_position(tmp_path):
    labels = write(tmp_path / "a.spk")
    labels.check_tokens([3, 0, 1], [TOKENS[3], torch.tensor(TOKENS[0]), []])
    labels.check_tokens([3], [TOKENS[3][:2]], whole=False)
    labels.check_tokens(3, TOKENS[3])

    with pytest.raises(DataError, match="sequence 3 differs at position 2: found token 4, the labels are of 0"):
        labels.check_tokens([0, 3], [TOKENS[0], [3, 3, 4, 9, 1]])
    with pytest.raises(
        DataError, match="sequence 3 differs at position 2: found 2 tokens, the labels are of 5"
    ):
        labels.check_tokens([3], [[3, 3]])
    for whole in (True, False):
        with pytest.raises(
            DataError, match="sequence 0 differs at position 3: found 4 tokens, the labels are of 3"
        ):
            labels.check_tokens([0], [[*TOKENS[0], 1]], whole=whole)
    with pytest.raises(DataError, match="found 1 items and 2 sequences"):
        labels.check_tokens([0], [TOKENS[0], TOKENS[2]])
    with pytest.raises(DataError, match="there is no item 4; it holds items 0 to 3"):
        labels.tokens(4)


def test_files_without_sequences_say_so(tmp_path):
    with softpack.create(tmp_path / "a.spk", "raw", classes=V) as w:
        w.append(rows(2), item=0, view=[0, 1], token=[1, 2])

    with pytest.raises(DataError, match=r"a.spk: holds no tokens of sequences; give sequences="):
        softpack.open(tmp_path / "a.spk").tokens(0)


def test_fingerprints_are_kept_and_checked(tmp_path):
    prints = {"teacher": "a" * 64, "data": "0" * 64}
    labels = write(tmp_path / "a.spk", fingerprints=prints)

    assert labels.fingerprints == prints
    labels.check_fingerprints(teacher="a" * 64, data="0" * 64)
    with pytest.raises(
        DataError, match=r"come from another teacher: found bbbb.*, expected aaaa.*; give the checkpoint"
    ):
        labels.check_fingerprints(teacher="b" * 64)
    with pytest.raises(DataError, match="does not say what tokenizer its labels come from"):
        labels.check_fingerprints(tokenizer="b" * 64)
    with pytest.raises(DataError, match="another teacher"):
        labels.check_fingerprints(teacher=torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("prints", "said"),
    [
        ({"data": "F" * 64}, "fingerprints.data: found 'F+'; expected 64 lowercase hexadecimal digits"),
        ({"model": "0" * 64}, "fingerprints, field 'model'"),
    ],
)
def test_what_is_no_fingerprint_is_refused(tmp_path, prints, said):
    with pytest.raises(DataError, match=said):
        softpack.create(tmp_path / "a.spk", "raw", classes=V, fingerprints=prints)


@pytest.mark.parametrize("space", ["logits", "log_probs", "probs"])
def test_forced_tokens_are_exact_whatever_the_codec(tmp_path, space):
    logits, T = torch.from_numpy(rows(5)), 1.0 if space == "logits" else 2.0
    given = {
        "logits": logits,
        "log_probs": torch.log_softmax(logits / T, 1),
        "probs": torch.softmax(logits / T, 1),
    }[space]
    how = {"classes": V, "space": space, "temperature": T, "k": 1, "tail": "zero", "forced": (7, 0, 11)}
    with softpack.create(tmp_path / "a.spk", "topk", **how) as w:
        w.append(given[:2], item=[0, 0], view=[0, 1])
        w.append(given[2:], item=[2, 2, 0], view=[0, 1, 2])
    labels = softpack.open(tmp_path / "a.spk")

    found = labels.forced([0, 0, 2, 2, 0], [0, 1, 0, 1, 2])
    torch.testing.assert_close(found, torch.log_softmax(logits, 1)[:, [7, 0, 11]], atol=1e-5, rtol=0)
    assert found.dtype == torch.float32
    assert labels.forced_tokens == (7, 0, 11)
    assert torch.equal(labels.load().forced([2], [1]), found[3:4])
    assert labels.columns == ()


def test_forced_tokens_of_probability_zero_are_kept(tmp_path):
    logits = rows(1)
    logits[0, 3] = -np.inf
    with softpack.create(tmp_path / "a.spk", "raw", classes=V, forced=[3]) as w:
        w.append(logits, item=0, view=0)

    assert softpack.open(tmp_path / "a.spk").forced([0], [0]).item() == -torch.inf


@pytest.mark.parametrize("forced", [(12,), (-1,), (1, 1), (1.5,), tuple(range(4097))])
def test_forced_tokens_that_are_none_are_refused(tmp_path, forced):
    with pytest.raises(
        DataError, match=r"forced is \[.*; expected at most 4096 ids from 0 to 11, each given once"
    ):
        softpack.create(tmp_path / "a.spk", "raw", classes=V, forced=forced)


def test_forced_numbers_of_another_shape_are_refused(tmp_path):
    with softpack.create(tmp_path / "a.spk", "raw", classes=V, forced=(1, 2)) as w:
        with pytest.raises(
            DataError, match=r"found forced log-probabilities of shape \(1, 3\); expected \(1, 2\)"
        ):
            w.append(rows(1), item=0, view=0, forced=np.zeros((1, 3)))
        w.append(rows(1), item=0, view=0, forced=np.full((1, 2), -0.5))

    assert softpack.open(tmp_path / "a.spk").forced([0], [0]).tolist() == [[-0.5, -0.5]]
    with pytest.raises(DataError, match="keeps no classes exactly"):
        write(tmp_path / "b.spk").forced([0], [0])


def test_all_of_it_goes_with_the_codes_and_into_another_codec(tmp_path):
    from softpack.sources.encoding import encode_source, fit_model
    from softpack.sources.opening import open_source

    labels = write(tmp_path / "a.spk", forced=(3, 4), fingerprints={"data": "0" * 64})
    from softpack.container.repack import repack

    repack(tmp_path / "a.spk", tmp_path / "b.spk")
    source = open_source(tmp_path / "a.spk")
    encode_source(source, tmp_path / "c.spk", fit_model(source, "quantize", {"bits": 8}))
    for name in ("b.spk", "c.spk"):
        other = softpack.open(tmp_path / name)
        assert [other.tokens(item).tolist() for item in range(4)] == TOKENS
        assert torch.equal(other.forced(*labels.cells()), labels.forced(*labels.cells()))
        assert other.fingerprints == labels.fingerprints
        assert softpack.verify(tmp_path / name).problems == ()
    repack(tmp_path / "a.spk", tmp_path / "d.spk", replay=False)
    bare = softpack.open(tmp_path / "d.spk")
    assert (bare.columns, bare.item_columns, bare.forced_tokens) == ((), (), (3, 4))


def test_first_views_leave_sequences_out(tmp_path):
    from softpack.sources.encoding import encode_source, fit_model
    from softpack.sources.opening import open_source
    from softpack.sources.pruning import first_views

    write(tmp_path / "a.spk", forced=(3,))
    source = first_views(open_source(tmp_path / "a.spk"), 1)
    encode_source(source, tmp_path / "b.spk", fit_model(source, "raw", {}))
    labels = softpack.open(tmp_path / "b.spk")

    assert (labels.n_rows, labels.item_columns, labels.forced_tokens) == (2, (), (3,))


@pytest.mark.parametrize(("item", "first"), [(0, -1), (1, 3)])
def test_a_first_token_of_no_sequence_or_none_of_one_is_corrupt(tmp_path, item, first):
    labels = write(tmp_path / "a.spk")
    labels._sequences._first_N = np.where(np.arange(4) == item, first, labels.item_column("first_token"))

    with pytest.raises(
        CorruptError, match=f"sequence {item} has .* first_token {first}; expected -1 for one without"
    ):
        labels.tokens(item)
    assert labels.tokens(3).tolist() == TOKENS[3]
