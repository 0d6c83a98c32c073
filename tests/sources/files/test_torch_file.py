"""`.pt`: a tensor, or tensors by name, whose numbers are read in place."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softpack.errors import DataError
from softpack.sources.opening import open_source

ROWS = torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[True, False], ids=["zip", "streams"])
def saved(request, tmp_path):
    def save(value, suffix="pt"):
        torch.save(value, path := tmp_path / f"a.{suffix}", _use_new_zipfile_serialization=request.param)
        return path

    return save


def rows_of(source) -> np.ndarray:
    return np.concatenate([block.labels_BC for block in source.blocks(7)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16, torch.float64])
def test_a_tensor_is_labels_of_every_item_and_view(saved, dtype):
    source = open_source(saved(ROWS.to(dtype), "pth"))
    assert (source.items, source.views, source.spec.space) == (6, 4, "logits")
    np.testing.assert_array_equal(rows_of(source), ROWS.to(dtype).float().reshape(24, 5).numpy())
    one = open_source(saved(ROWS[:, 0].to(dtype).contiguous()))
    assert (one.items, one.views) == (6, 1)


def test_tensors_by_name_are_what_arrays_by_name_are(saved, tmp_path):
    arrays = {
        "log_probs": ROWS.log_softmax(2),
        "flip": torch.arange(24).reshape(6, 4) % 2 == 0,
        "mix_item": torch.full((6, 4), -1),
        "mix_lam": torch.ones(6, 4),
        "target": torch.arange(6),
    }
    np.savez(tmp_path / "a.npz", temperature=2.0, **{name: tensor.numpy() for name, tensor in arrays.items()})
    one = open_source(saved(arrays | {"temperature": 2, "notes": "mine", "optimizer": {"lr": 0.1}}))
    other = open_source(tmp_path / "a.npz")
    assert one.ignored == ("notes", "optimizer")
    assert (one.spec, one.columns, one.n_rows) == (other.spec, other.columns, other.n_rows)
    for mine, theirs in zip(one.blocks(7), other.blocks(7), strict=True):
        np.testing.assert_array_equal(mine.labels_BC, theirs.labels_BC)
        assert all(np.array_equal(mine.replay[name], theirs.replay[name]) for name in one.columns)


def test_part_of_a_larger_tensor_is_that_part(saved):
    np.testing.assert_array_equal(rows_of(open_source(saved(ROWS[2:4]))), ROWS[2:4].reshape(8, 5).numpy())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            ROWS.transpose(0, 1),
            r"of strides \[5, 20, 1\], whose rows do not lie one after another; save tensor.contig",
        ),
        ([ROWS], "holds a list; expected a tensor, or a dictionary of tensors"),
        (None, "holds a NoneType; expected a tensor"),
        ({"labels": ROWS}, "has none of the arrays logits, log_probs, probs; .* it holds labels"),
        (torch.nn.Linear(2, 2), "names 'torch"),
        ({"logits": ROWS.to(torch.complex64)}, r"names 'torch\.ComplexFloatStorage'"),
    ],
    ids=["not contiguous", "a list", "nothing", "another name", "a module", "complex"],
)
def test_what_is_no_label_set_is_refused(saved, value, says):
    with pytest.raises(DataError, match=rf"a\.pt: .*{says}"):
        open_source(saved(value))


def test_a_file_that_was_cut_off_is_refused(saved):
    path = saved(ROWS)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        DataError, match=r"a\.pt: (cannot be read: BadZipFile|ends \d+ bytes before its numbers do)"
    ):
        open_source(path)


def test_a_flipped_bit_is_found(tmp_path):
    torch.save(ROWS, path := tmp_path / "a.pt")
    data = bytearray(path.read_bytes())
    data[data.index(ROWS.numpy().tobytes()) + 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(DataError, match="the checksum of an array does not fit its bytes"):
        rows_of(open_source(path))
