from __future__ import annotations

import hashlib
import json
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

from softpack.errors import DataError
from softpack.fingerprints import teacher_fingerprint, tokenizer_fingerprint


def test_a_teacher_is_its_tensors_in_the_order_of_names():
    model = nn.ModuleDict({"b": nn.Linear(2, 1), "a": nn.Linear(1, 2, bias=False)}).to(torch.bfloat16)
    digest, done = hashlib.sha256(), []
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}\0bfloat16\0{','.join(map(str, tensor.shape))}\0".encode())
        digest.update(tensor.view(torch.int16).numpy().astype("<i2").tobytes())

    assert teacher_fingerprint(model, lambda n, total: done.append((n, total))) == digest.hexdigest()
    assert done[-1] == (10, 10)


@pytest.mark.parametrize("change", ["number", "dtype", "name", "shape"])
def test_other_teachers_have_other_fingerprints(change):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    before = teacher_fingerprint(model)
    if change == "number":
        model[0].weight.data[1, 1] += 1
    other = {
        "dtype": lambda: nn.Sequential(nn.Linear(2, 2, bias=False)).to(torch.float16),
        "name": lambda: nn.Sequential(nn.Identity(), model[0]),
        "shape": lambda: _reshaped(model),
    }.get(change, lambda: model)()

    assert teacher_fingerprint(other) != before


def _reshaped(model: nn.Module) -> nn.Module:
    other = nn.Sequential(nn.Linear(4, 1, bias=False))
    other[0].weight.data = model[0].weight.data.reshape(1, 4)
    return other


def test_a_buffer_of_one_number_counts():
    model = nn.Module()
    model.register_buffer("scale", torch.tensor(2.0))
    before = teacher_fingerprint(model)
    model.scale += 1

    assert teacher_fingerprint(model) != before


class Backend:
    def __init__(self, **parts):
        self.parts = parts

    def to_str(self):
        return json.dumps(self.parts)


class Fast:
    def __init__(self, **parts):
        self.backend_tokenizer = Backend(**parts)


class Slow:
    special_tokens_map = MappingProxyType({"bos_token": "<s>"})

    def __init__(self, **vocabulary):
        self.vocabulary = vocabulary

    def get_vocab(self):
        return self.vocabulary


def test_a_tokenizer_is_what_it_is_and_not_how_it_was_called():
    before = tokenizer_fingerprint(Fast(model={"vocab": {"a": 0}}, truncation=None, padding=None))

    assert before == tokenizer_fingerprint(
        Fast(padding={"length": 9}, truncation={"max_length": 2}, model={"vocab": {"a": 0}})
    )
    assert before == tokenizer_fingerprint(Backend(model={"vocab": {"a": 0}}))
    assert before == hashlib.sha256(b'{"model":{"vocab":{"a":0}}}').hexdigest()
    assert before != tokenizer_fingerprint(Fast(model={"vocab": {"b": 0}}))


def test_a_slow_tokenizer_is_its_vocabulary_by_id_and_its_special_tokens(monkeypatch):
    before = tokenizer_fingerprint(Slow(a=1, b=0))

    assert before == tokenizer_fingerprint(Slow(b=0, a=1))
    assert before != tokenizer_fingerprint(Slow(a=0, b=1))
    monkeypatch.setattr(Slow, "special_tokens_map", {"bos_token": "a"})
    assert before != tokenizer_fingerprint(Slow(a=1, b=0))


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(
        DataError, match="a ndarray is no tokenizer; expected one of transformers or tokenizers"
    ):
        tokenizer_fingerprint(np.zeros(3))
