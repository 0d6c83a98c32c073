from __future__ import annotations

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from softpack.capturing.reading import read_sequences
from softpack.errors import DataError
from softpack.sequences import Sequences


class Letters:
    """A tokenizer of letters, which begins each text with a token of its own."""

    bos_token_id = 1

    def __call__(self, texts):
        return {"input_ids": [[1, *(ord(letter) - 87 for letter in text)] for text in texts]}


def lists(found: Sequences) -> list[list[int]]:
    return [found[item].tolist() for item in range(len(found))]


@pytest.mark.parametrize(
    "given",
    [
        [[5, 1, 2], [7]],
        (tokens for tokens in [[5, 1, 2], [7]]),
        [np.array([5, 1, 2]), torch.tensor([7])],
        [{"input_ids": [5, 1, 2]}, {"input_ids": [7], "text": "other"}],
        [
            {"input_ids": [5, 1, 2, 0], "attention_mask": [1, 1, 1, 0]},
            {"input_ids": [0, 7], "attention_mask": [0, 1]},
        ],
        Sequences.of([[5, 1, 2], [7]]),
    ],
)
def test_sequences_come_in_many_ways(given):
    assert lists(read_sequences(given)) == [[5, 1, 2], [7]]


def test_texts_are_tokenized_and_end_after_max_length():
    given = ["abcd", {"text": "ab"}, [9, 8, 7, 6], ""]

    assert lists(read_sequences(given, Letters())) == [[1, 10, 11, 12, 13], [1, 10, 11], [9, 8, 7, 6], [1]]
    assert lists(read_sequences(given, Letters(), 3)) == [[1, 10, 11], [1, 10, 11], [9, 8, 7], [1]]
    assert lists(read_sequences(Sequences.of([[1, 2, 3], [4]]), None, 2)) == [[1, 2], [4]]


def test_many_texts_keep_their_order():
    texts = [chr(97 + n % 26) * (n % 5) for n in range(700)]

    assert lists(read_sequences(texts, Letters())) == Letters()(texts)["input_ids"]


def test_a_txt_is_one_text_in_pieces_that_begin_as_the_text_does(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefg")

    assert lists(read_sequences(tmp_path / "a.txt", Letters(), 4)) == [
        [1, 10, 11, 12],
        [1, 13, 14, 15],
        [1, 16],
    ]
    assert lists(read_sequences(str(tmp_path / "a.txt"), Letters())) == [[1, *range(10, 17)]]
    bare = Letters()
    bare.bos_token_id = None
    assert lists(read_sequences(tmp_path / "a.txt", bare, 4)) == [[1, 10, 11, 12], [13, 14, 15, 16]]


def test_files_of_sequences(tmp_path):
    examples = [{"input_ids": [5, 1, 2], "id": "x"}, {"text": "ab"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, examples)))
    np.savez(tmp_path / "a.npz", input_ids=[[5, 1, 2], [1, 10, 11]], length=[3, 3])
    np.savez(tmp_path / "b.npz", input_ids=[5, 1, 2, 1, 10, 11], length=[3, 0, 3])
    np.save(tmp_path / "a.npy", np.array([[5, 1, 2], [1, 10, 11]]))
    pyarrow.parquet.write_table(pyarrow.table({"input_ids": [[5, 1, 2], [1, 10, 11]]}), tmp_path / "a.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["", "ab"]}), tmp_path / "b.parquet")

    for name in ("a.jsonl", "a.npz", "a.npy", "a.parquet"):
        assert lists(read_sequences(tmp_path / name, Letters())) == [[5, 1, 2], [1, 10, 11]], name
    assert lists(read_sequences(tmp_path / "b.npz")) == [[5, 1, 2], [], [1, 10, 11]]
    assert lists(read_sequences(tmp_path / "b.parquet", Letters())) == [[1], [1, 10, 11]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n{"words": 1}',
            "a.jsonl, line 2: has the fields words; expected input_ids or text",
        ),
        (
            "a.jsonl",
            '{"input_ids": [1]}\nhello',
            r"a.jsonl, line 2: is no JSON; expected an object with text or input_ids",
        ),
        ("a.jsonl", "[1, 2]", r"a.jsonl, line 1: is \[1, 2\]; expected an object"),
        ("a.jsonl", '{"input_ids": [1.5]}', "a.jsonl, line 1: is float64"),
        ("a.md", "", "a.md: ends in .md; expected one of .txt, .jsonl, .npz"),
        ("a.npz", "PK", "a.npz: cannot be read"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        read_sequences(tmp_path / name, Letters())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"tokens": [1, 2]},
            r"a.npz: holds tokens \[2\]; expected input_ids \[N, L\], or \[T\] with length \[N\]",
        ),
        ({"input_ids": [1, 2]}, r"holds input_ids \[2\]; expected"),
        ({"input_ids": [[1, 2]], "length": [3]}, "length does not fit input_ids of shape"),
        ({"input_ids": [1, 2], "length": [1]}, "length sums to 1; expected the 2 tokens of input_ids"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said):
        read_sequences(tmp_path / "a.npz")


def test_pickles_are_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read: Object arrays cannot be loaded"):
        read_sequences(tmp_path / "a.npy")


def test_texts_need_a_tokenizer(tmp_path):
    with pytest.raises(
        DataError, match=r"sequence: is text, and there is no tokenizer; give tokenizer= \(--tokenizer\)"
    ):
        read_sequences(["a"])
    with pytest.raises(DataError, match=r"nowhere.txt: is no file"):
        read_sequences(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match="max_length is 1; expected a whole number from 2"):
        read_sequences([[1, 2]], None, 1)


class Rows(dict):
    """Fields by name, as tokenizers give them."""


@pytest.mark.parametrize("kind", [dict, Rows])
def test_fields_by_name_are_examples(kind):
    given = kind(
        input_ids=[[1, 2, 3], [4, 5, 0]], attention_mask=[[1, 1, 1], [1, 1, 0]], token_type_ids=[[0], [0]]
    )
    found = read_sequences(given, Letters())
    assert [found[n].tolist() for n in range(len(found))] == [[1, 2, 3], [4, 5]]
    assert len(read_sequences(kind(text=["ab", "c"]), Letters())) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokens": [[1, 2]]}, "a dictionary of tokens; expected input_ids"),
        ({"text": "one text"}, "a dictionary of text; expected"),
        ({"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1]]}, "a dictionary of input_ids, attention_mask;"),
        ({}, "a dictionary of nothing; expected"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1]}, "expected input_ids .* each with as many entries as"),
        ([{"input_ids": [1, 2, 3], "attention_mask": [1, 1]}],
         "sequence 0: has 3 input_ids and 2 numbers of attention_mask; expected as many"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_are_refused(given, said):
    with pytest.raises(DataError, match=said):
        read_sequences(given, Letters())


def test_lengths_and_devices_of_fields_are_heeded():
    padded = {"input_ids": torch.tensor([[1, 2, 0], [3, 4, 5]]), "length": torch.tensor([2, 3])}
    found = read_sequences(padded)
    assert [found[n].tolist() for n in range(2)] == [[1, 2], [3, 4, 5]]
    masked = {"input_ids": torch.tensor([[1, 2, 0]]), "attention_mask": torch.tensor([[True, True, False]])}
    assert read_sequences(masked)[0].tolist() == [1, 2]


def test_a_field_that_is_no_list_of_sequences_is_refused_as_such(tmp_path):
    for name, text in (("null.jsonl", '{"input_ids": null}'), ("number.jsonl", '{"input_ids": 5}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=rf"{name}, line 1: is "):
            read_sequences(tmp_path / name)
    for given in ({"input_ids": torch.tensor([1, 2, 3])}, {"input_ids": [[1, 2]], "length": 2}):
        with pytest.raises(DataError, match="the sequences are a dictionary of input_ids"):
            read_sequences(given)


@pytest.mark.parametrize("length", [-1, 4, 2.0, None])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(
        DataError, match=f"sequence 0: has length {length} and 3 input_ids; expected a whole number"
    ):
        read_sequences([{"input_ids": [1, 2, 3], "length": length}])


def test_lengths_are_heeded_in_every_kind_of_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"input_ids": [[1, 2, 0], [3, 4, 5]], "length": [2, 3]}), tmp_path / "a.parquet"
    )
    (tmp_path / "a.jsonl").write_text(
        '{"input_ids": [1, 2, 0], "length": 2}\n{"input_ids": [3, 4, 5], "length": [3]}'
    )
    for name in ("a.parquet", "a.jsonl"):
        found = read_sequences(tmp_path / name)
        assert [found[n].tolist() for n in range(2)] == [[1, 2], [3, 4, 5]]
