"""Files of hidden states: with their output matrix inside, or named by its hash and given again."""

from __future__ import annotations

import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import softpack
from softpack.cli import main
from softpack.codecs.head import Head
from softpack.container.model import Model
from softpack.errors import CodecError, DataError
from softpack.format import layout

H, V, N, L = 24, 400, 30, 20
ITEM, VIEW = np.repeat(np.arange(N), L), np.tile(np.arange(L), N)


@pytest.fixture(scope="module")
def matrix_VH():
    return torch.randn(V, H, generator=torch.Generator().manual_seed(1)).bfloat16()


@pytest.fixture(scope="module")
def hidden_BH():
    spread_H = 2.0 / torch.arange(1, H + 1) ** 0.5
    return torch.randn(N * L, H, generator=torch.Generator().manual_seed(2)) * spread_H


def write(path, hidden_BH, matrix_VH, **how):
    with softpack.create(path, "head", matrix=matrix_VH, items=N, views=L, target_bits=60, **how) as writer:
        writer.append(hidden_BH, item=ITEM, view=VIEW)
    return path


@pytest.fixture(scope="module")
def named(tmp_path_factory, hidden_BH, matrix_VH):
    return write(tmp_path_factory.mktemp("named") / "a.spk", hidden_BH, matrix_VH, matrix_inside=False)


def kl(labels, hidden_BH, matrix_VH):
    teacher_BV = hidden_BH @ matrix_VH.float().T
    return softpack.fidelity(labels.read(ITEM, VIEW), teacher_BV, (1,)).temperatures[1.0]


def test_labels_are_logits_near_the_teacher_with_the_matrix_inside(tmp_path, hidden_BH, matrix_VH):
    labels = softpack.open(write(tmp_path / "a.spk", hidden_BH, matrix_VH))

    assert labels.shape == (N, L, V)
    assert labels.spec.space == "logits"
    assert kl(labels, hidden_BH, matrix_VH).kl_mean < 0.25
    assert softpack.ledger(tmp_path / "a.spk").matrix_bytes is None


def test_the_entropy_coder_is_fitted_to_the_first_rows(named, tmp_path, hidden_BH, matrix_VH):
    account = softpack.ledger(named)

    assert [entry for entry in account.entries if entry.what == "entropy tables"]
    assert account.bits_of("codes") / account.n_rows < 75  # 60 asked, of so few rows


def test_a_codec_that_is_fitted_elsewhere_gets_tables_from_the_first_rows(tmp_path, hidden_BH, matrix_VH):
    codec = Head.of_matrix(matrix_VH, bits=60.0).fit([hidden_BH])
    with softpack.create(tmp_path / "a.spk", codec, items=N, views=L) as writer:
        writer.append(hidden_BH[:5], item=ITEM[:5], view=VIEW[:5])
        writer.append(hidden_BH[5:], item=ITEM[5:], view=VIEW[5:])
    with softpack.create(
        tmp_path / "b.spk", Model(codec), items=N, views=L
    ) as writer:  # a model is taken as it is
        writer.append(hidden_BH, item=ITEM, view=VIEW)
    ours, bare = (softpack.ledger(tmp_path / name) for name in ("a.spk", "b.spk"))

    assert [entry for entry in ours.entries if entry.what == "entropy tables"]
    assert not [entry for entry in bare.entries if entry.what == "entropy tables"]
    assert ours.marginal_bits_per_label < 0.9 * bare.marginal_bits_per_label
    assert torch.equal(*(softpack.open(tmp_path / name).read(ITEM, VIEW) for name in ("a.spk", "b.spk")))


def test_a_model_that_names_its_matrix_is_kept_and_loaded_with_it(tmp_path, hidden_BH, matrix_VH):
    codec = Head.of_matrix(matrix_VH, named=True, bits=60.0).fit([hidden_BH])
    softpack.save_model(tmp_path / "a.spkm", codec)
    save_file({"lm_head.weight": matrix_VH}, tmp_path / "model.safetensors")

    for matrix in (matrix_VH, tmp_path / "model.safetensors"):
        model = softpack.load_model(tmp_path / "a.spkm", matrix)
        assert torch.equal(
            torch.cat([*model.codec.encode(hidden_BH[:9]).values()], 1),
            torch.cat([*codec.encode(hidden_BH[:9]).values()], 1),
        )
    with pytest.raises(CodecError, match=r"a\.spkm: names the teacher's output matrix by its hash; give it"):
        softpack.load_model(tmp_path / "a.spkm")
    with pytest.raises(CodecError, match=r"a\.spkm: "):
        softpack.load_model(tmp_path / "a.spkm", matrix_VH + 1)


def test_labels_are_let_go_of_with_their_last_name(named, matrix_VH):
    labels = softpack.open(named, matrix=matrix_VH)
    labels.read([0], [0]), labels.replay([0], [0]), labels.item_columns
    gone = weakref.ref(labels)
    gc.disable()
    try:
        del labels
        assert (
            gone() is None
        )  # with tiles, matrix, and codecs on devices, not when the collector happens to run
    finally:
        gc.enable()


def test_a_named_matrix_is_given_as_tensor_or_as_safetensors(named, tmp_path, hidden_BH, matrix_VH):
    save_file({"other": torch.zeros(V, H), "lm_head.weight": matrix_VH}, tmp_path / "model.safetensors")
    expected_BV = softpack.open(named, matrix=matrix_VH).read(ITEM[:5], VIEW[:5])

    for given in (tmp_path / "model.safetensors", tmp_path):
        assert torch.equal(softpack.open(named, matrix=given).read(ITEM[:5], VIEW[:5]), expected_BV)
    again = pickle.loads(pickle.dumps(softpack.open(named, matrix=matrix_VH)))
    assert torch.equal(again.read(ITEM[:5], VIEW[:5]), expected_BV)
    resident_BV = softpack.open(named, matrix=matrix_VH).load().read(ITEM[:5], VIEW[:5])
    torch.testing.assert_close(resident_BV, expected_BV)


def test_a_named_matrix_is_asked_for_and_another_refused(named, matrix_VH):
    with pytest.raises(CodecError, match=r"that is not in the file.*give the teacher's checkpoint"):
        softpack.open(named).read([0], [0])
    with pytest.raises(
        CodecError, match=r"needs the output matrix bf16 \[400, 24\].*give the checkpoint of the teacher"
    ):
        softpack.open(named, matrix=matrix_VH + 1).read([0], [0])
    with pytest.raises(CodecError, match=r"the tensor, fp32 \[400, 24\], as bf16 of "):
        softpack.open(named, matrix=matrix_VH.float() + 1).read([0], [0])


def test_a_matrix_that_nothing_needs_is_refused(tmp_path, hidden_BH, matrix_VH):
    path = write(tmp_path / "a.spk", hidden_BH, matrix_VH)
    with pytest.raises(DataError, match="all that labels are decoded by is in the file; leave matrix= out"):
        softpack.open(path, matrix=matrix_VH).read([0], [0])
    with pytest.raises(CodecError, match="codec topk has no use for an output matrix"):
        softpack.create(tmp_path / "b.spk", "topk", classes=V, matrix=matrix_VH)
    with pytest.raises(CodecError, match=r"the output matrix is \[400, 24\]; expected a tensor \[tokens, 25\]"):
        softpack.create(tmp_path / "b.spk", "head", classes=25, matrix=matrix_VH)


def test_the_ledger_counts_a_matrix_beside_the_file(named):
    account = softpack.ledger(named)

    assert account.matrix_bytes == 2 * V * H
    assert account.total_bits == 8 * account.file_bytes
    runner = CliRunner()
    assert "output matrix beside it, named by its hash, 19,200 bytes" in " ".join(
        runner.invoke(main, ["ledger", str(named)]).output.replace("(18.75 KiB)", "").split()
    )
    assert '"matrix_bytes": 19200' in runner.invoke(main, ["ledger", str(named), "--format", "json"]).output
    assert "output matrix, beside the file,model" in runner.invoke(
        main, ["ledger", str(named), "--format", "csv"]
    ).output.replace('"', "")


def test_rows_are_appended_with_the_matrix_given_again(tmp_path, hidden_BH, matrix_VH):
    path = tmp_path / "a.spk"
    with softpack.create(
        path, "head", matrix=matrix_VH, matrix_inside=False, target_bits=60, appendable=True
    ) as writer:
        writer.append(hidden_BH, item=ITEM, view=VIEW)
    with pytest.raises(CodecError, match="holds no encoder"):
        softpack.append(path)
    with softpack.append(path, matrix=matrix_VH) as writer:
        writer.append(hidden_BH[:L], item=np.full(L, N), view=VIEW[:L])

    labels = softpack.open(path, matrix=matrix_VH)
    assert torch.equal(labels[N], labels[0])


def test_no_row_is_worse_than_promised(tmp_path, hidden_BH, matrix_VH):
    path = write(tmp_path / "a.spk", hidden_BH, matrix_VH, max_kl=0.2, temperatures=(1,))

    assert kl(softpack.open(path), hidden_BH, matrix_VH).kl_max <= 0.2


def test_decode_takes_the_matrix_from_a_checkpoint(named, tmp_path, matrix_VH):
    save_file({"lm_head.weight": matrix_VH}, tmp_path / "model.safetensors")
    runner, out = CliRunner(), str(tmp_path / "a.npy")

    refused = runner.invoke(main, ["decode", str(named), "-o", out])
    done = runner.invoke(
        main, ["decode", str(named), "-o", out, "--matrix", str(tmp_path / "model.safetensors")]
    )

    assert refused.exit_code == 1
    assert "give the teacher's checkpoint" in refused.output
    assert done.exit_code == 0, done.output
    expected_BV = softpack.open(named, matrix=matrix_VH).read(ITEM, VIEW)
    torch.testing.assert_close(torch.from_numpy(np.load(out)).flatten(0, 1), expected_BV)


def test_tiles_are_so_small_that_all_logits_may_be_corrected(tmp_path, hidden_BH, matrix_VH, monkeypatch):
    monkeypatch.setattr(layout, "MAX_TILE_VALUES", 10 * len(matrix_VH))
    path = write(tmp_path / "a.spk", hidden_BH, matrix_VH, max_kl=0.2, temperatures=(1,))
    header = softpack.open(path).file.header
    assert header.tile_items * header.tile_views <= 10
