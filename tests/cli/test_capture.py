"""`softpack capture`, with a teacher of a module and with one of transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import softpack
from softpack.cli import main

HELPERS = Path(__file__).resolve().parents[1] / "capturing"
MODEL = ("--model", "capturing_helpers:Model")
TOKENS = [[5, 1, 2], [], [7], [3, 3, 0, 9]]


def run(*words) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HELPERS))
    (tmp_path / "ids.jsonl").write_text("\n".join(json.dumps({"input_ids": tokens}) for tokens in TOKENS))
    return tmp_path


def test_ids_are_captured(here):
    code, out, err = run("capture", "ids.jsonl", "-o", "a.spk", "--model", "capturing_helpers:Model", "--codec", "topk",
                         "--set", "k=4", "--forced", "3,0", "--json")  # fmt: skip
    labels = softpack.open("a.spk")

    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["codec"], facts["items"], facts["rows"], facts["sequence_tokens"]) == ("topk", 4, 5, 8)
    assert facts["forced"] == [3, 0]
    assert facts["fingerprints"].keys() == {"teacher", "data"}
    assert [labels.tokens(item).tolist() for item in range(4)] == TOKENS


def test_info_shows_sequences_fingerprints_and_forced_tokens(here):
    run(
        "capture",
        "ids.jsonl",
        "-o",
        "a.spk",
        "--model",
        "capturing_helpers:Model",
        "--forced",
        "3",
        "--set",
        "k=4",
    )
    code, out, _ = run("info", "a.spk")

    assert code == 0
    assert "labels       5 of 4 items x 3 views\n" in out
    assert "sequences    4 of 8 tokens in all, every one kept\n" in out
    assert f"from         teacher {softpack.open('a.spk').fingerprints['teacher'][:16]}, data " in out
    assert "kept exactly 1 tokens of every row: 3\n" in out


@pytest.mark.parametrize(
    ("name", "there"), [("a.npz", TOKENS), ("a.h5", TOKENS), ("a.parquet", [TOKENS[0], [], [], TOKENS[3]])]
)
def test_tokens_come_back_from_other_files(here, name, there):
    run("capture", "ids.jsonl", "-o", "a.spk", "--model", "capturing_helpers:Model", "--codec", "raw")
    assert run("decode", "a.spk", "-o", name)[0] == 0
    code, _, err = run("encode", name, "-o", "b.spk", "--codec", "raw")
    labels, again = softpack.open("a.spk"), softpack.open("b.spk")

    assert code == 0, err
    assert [again.tokens(item).tolist() for item in range(4)] == there  # rows alone say nothing of the others
    items, views = labels.cells()
    for column, values in labels.replay(items, views).items():
        np.testing.assert_array_equal(again.replay(items, views)[column], values)


@pytest.mark.parametrize(("layout", "name"), [("vllm", "a.jsonl"), ("vllm", "a.npz"), ("distillkit", "a")])
def test_sequences_without_rows_go_out_and_come_back(here, layout, name):
    run("capture", "ids.jsonl", "-o", "a.spk", *MODEL, "--codec", "topk", "--set", "k=3")
    code, _, err = run("decode", "a.spk", "-o", name, "--to", layout)
    assert code == 0, err
    code, _, err = run("encode", name, "-o", "b.spk", "--from", layout, "--classes", "40", "--codec", "topk")
    assert code == 0, err
    labels, again = softpack.open("a.spk"), softpack.open("b.spk")
    assert again.shape == labels.shape
    items, views = labels.cells()
    assert [array.tolist() for array in again.cells()] == [items.tolist(), views.tolist()]
    np.testing.assert_array_equal(again.replay(items, views)["token"], labels.replay(items, views)["token"])
    assert [again.tokens(item).tolist() for item in range(4)] == TOKENS


@pytest.mark.parametrize(("layout", "whose"), [("maxtext", "MaxText"), ("megatron", "Megatron")])
def test_sequences_of_several_lengths_do_not_go_where_all_are_of_one(here, layout, whose):
    run("capture", "ids.jsonl", "-o", "a.spk", *MODEL, "--codec", "topk", "--set", "k=3")
    code, _, err = run("decode", "a.spk", "-o", "m", "--to", layout)
    assert code == 1
    assert f"a.spk: item 0 has 2 rows and item 1 has 0; {whose}'s are of one length" in err
    assert not Path("m").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none.jsonl", "-o", "a.spk", "--model", "capturing_helpers:Model"], 1, "none.jsonl: is no file"),
        (["ids.jsonl", "-o", "no/a.spk", "--model", "capturing_helpers:Model"], 1, "there is no folder no"),
        (["ids.jsonl", "-o", "a.spk"], 2, "Missing option '--model'"),
        (["ids.jsonl", "-o", "a.spk", "--model", "capturing_helpers:None_"], 1, "has no None_"),
        (
            ["ids.jsonl", "-o", "a.spk", "--model", "capturing_helpers:Model", "--forced", "a"],
            2,
            "expected ids of tokens",
        ),
        (
            ["ids.jsonl", "-o", "a.spk", "--model", "capturing_helpers:Model", "--max-length", "1"],
            2,
            "--max-length",
        ),
        (
            ["text.jsonl", "-o", "a.spk", "--model", "capturing_helpers:Model"],
            1,
            "is text, and there is no tokenizer",
        ),
    ],
)
def test_what_cannot_be_captured_is_refused(here, words, code, said):
    Path("text.jsonl").write_text('{"text": "a"}')
    found, _, err = run("capture", *words)

    assert found == code
    assert said in err
    assert not Path("a.spk").exists()


def test_a_matrix_outside_is_of_codec_head(here):
    code, _, err = run("capture", "ids.jsonl", "-o", "a.spk", "--model", "capturing_helpers:Model", "--codec", "klt",
                       "--matrix-outside")  # fmt: skip

    assert code == 2
    assert "--matrix-outside is of --codec head alone" in err


@pytest.mark.parametrize("left", ["a.spk.unfinished", "a.spk.unfinished.partial"])
def test_an_interrupted_run_says_how_to_go_on(here, monkeypatch, left):
    def stop(*_, **__):
        Path(left).touch()
        raise KeyboardInterrupt

    words = ("capture", "ids.jsonl", "-o", "a.spk", "--model", "capturing_helpers:Model")
    with monkeypatch.context() as patched:
        patched.setattr("softpack.capturing.capture.capture", stop)
        code, _, err = run(*words)

    assert code == 1
    assert "interrupted; what is done is kept in a.spk.unfinished*, and the same command goes on" in err


@pytest.fixture
def matrix(here):
    """The output matrix of labels in `h.spk`, which name it by its hash."""
    from capturing_helpers import Model
    from safetensors.torch import save_file

    model = Model()
    softpack.capture(model, TOKENS, "h.spk", "head", target_bits=64, matrix_inside=False)
    save_file({"lm_head.weight": model.lm_head.weight.detach()}, "teacher.safetensors")
    return "teacher.safetensors"


def test_labels_whose_matrix_is_outside_are_written_out_for_others(matrix):
    code, _, err = run("decode", "h.spk", "-o", "a.jsonl", "--to", "vllm", "--k", "3", "--matrix", matrix)
    said = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]

    assert code == 0, err
    assert said[0]["prompt_token_ids"] == TOKENS[0]
    likeliest = softpack.open("h.spk", matrix=matrix).read([0], [0]).topk(3).indices[0].tolist()
    assert list(map(int, said[0]["prompt_logprobs"][1]))[:3] == likeliest


def test_labels_whose_matrix_is_outside_are_transcoded(matrix):
    code, _, err = run("transcode", "h.spk", "-o", "b.spk", "--codec", "raw")
    assert code == 1
    assert "is not in the file" in err
    assert "--matrix model.safetensors" in err

    code, _, err = run("transcode", "h.spk", "-o", "b.spk", "--codec", "raw", "--matrix", matrix)
    labels, again = softpack.open("h.spk", matrix=matrix), softpack.open("b.spk")

    assert code == 0, err
    items, views = labels.cells()
    np.testing.assert_allclose(again.read(items, views), labels.read(items, views), atol=1e-2)
    assert again.tokens(0).tolist() == TOKENS[0]


def test_sequences_longer_than_the_model_has_positions_for_are_refused(saved):
    config = saved.GPT2Config(
        vocab_size=9, n_embd=8, n_layer=1, n_head=2, n_positions=4, bos_token_id=1, eos_token_id=2
    )
    saved.GPT2LMHeadModel(config).save_pretrained("short")
    words = (
        "capture",
        "texts.jsonl",
        "-o",
        "a.spk",
        "--model",
        "short",
        "--tokenizer",
        "teacher",
        "--set",
        "k=4",
    )
    code, _, err = run(*words)

    assert code == 1
    assert "sequence 0 has 7 tokens; expected 4 at most, as the teacher has positions for no more" in err
    assert "--max-length 4" in err
    assert run(*words, "--max-length", "4")[0] == 0


def test_without_transformers_a_message_says_what_to_install(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, err = run("capture", "ids.jsonl", "-o", "a.spk", "--model", "somewhere")

    assert code == 1
    assert "language models take transformers, which cannot be imported" in err
    assert "pip install 'softpack[language]'" in err


@pytest.fixture
def saved(here):
    """A tiny model of transformers with its tokenizer, in a folder."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<pad>", "<s>", "</s>", *["a", "cat", "sees", "the", "old", "house"]]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, "<pad>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(here / "teacher")
    tokenizer.save_pretrained(here / "teacher")
    Path("texts.jsonl").write_text('{"text": "a cat sees the old house"}\n{"text": "the cat"}')
    return transformers


def test_texts_are_captured_from_a_model_of_transformers(saved):
    code, _, err = run(
        "capture", "texts.jsonl", "-o", "a.spk", "--model", "teacher", "--codec", "raw", "--max-length", "5"
    )
    labels = softpack.open("a.spk")

    assert code == 0, err
    assert [labels.tokens(item).tolist() for item in range(2)] == [[1, 3, 4, 5, 6], [1, 6, 4]]
    model = saved.AutoModelForCausalLM.from_pretrained("teacher")
    labels.check_fingerprints(teacher=model, tokenizer=saved.AutoTokenizer.from_pretrained("teacher"))
    import torch

    with torch.no_grad():
        expected = model(torch.tensor([[1, 6, 4]])).logits[0, :2]
    np.testing.assert_allclose(labels[1].numpy(), expected.numpy(), atol=2e-3)


def test_padding_and_packing_change_nothing_that_a_model_of_transformers_says(saved):
    import torch

    model = saved.AutoModelForCausalLM.from_pretrained("teacher").eval()
    random = np.random.default_rng(0)
    sequences = [random.integers(1, 9, length) for length in (5, 1, 30, 17, 2, 29)]
    softpack.capture(model, sequences, "b.spk", "raw", dtype="fp32", batch_tokens=70)
    labels = softpack.open("b.spk")
    examples = [{"item": item, "input_ids": tokens} for item, tokens in enumerate(sequences)]
    for packed in (None, 48):
        batch = softpack.LabelCollator(labels, packed=packed, decode=True)(examples)
        soft = batch.pop("soft_labels")
        with torch.no_grad():
            said = soft.student(model(**batch).logits)
        torch.testing.assert_close(said, soft.label, atol=1e-5, rtol=0)


def test_a_folder_without_a_model_is_refused(saved):
    Path("empty").mkdir()
    code, _, err = run("capture", "texts.jsonl", "-o", "a.spk", "--model", "empty")

    assert code == 1
    assert "empty: is no causal language model that transformers can load" in err
    code, _, err = run("capture", "texts.jsonl", "-o", "a.spk", "--model", "./missing")

    assert code == 1
    assert "./missing: there is no such folder; expected one of a model" in err


# -- check ---------------------------------------------------------------------------------------------


def test_a_file_is_checked_by_asking_its_model_again(here):
    run("capture", "ids.jsonl", "-o", "a.spk", *MODEL, "--codec", "quantize", "--set", "bits=4")
    code, out, err = run("check", "a.spk", *MODEL, "--temperature", "1", "--json")

    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["labels"]["rows"] == 5
    assert 1e-6 < said["labels"]["temperatures"]["1"]["kl_mean"] < 0.1
    assert said["control"]["temperatures"]["1"]["kl_mean"] < 1e-9
    code, out, _ = run("check", "a.spk", *MODEL, "--rows", "2")
    assert code == 0
    assert out.splitlines()[0].split() == ["T", "KL", "mean", "KL", "p99", "KL", "max", "control"]
    assert "of 2 rows; control 100.00%" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "give --images and --teacher, or --model where FILE holds sequences of tokens"),
        (["--images", "x", *MODEL], 2, "give --images and --teacher, or --model"),
        (["--images", "."], 2, "give --teacher beside --images"),
        ([*MODEL, "--size", "0"], 2, "--size is of no use beside --model"),
        ([*MODEL, "--teacher", "a:b"], 2, "--teacher is of no use beside --model"),
        ([*MODEL, "--batch-size", "64"], 2, "--batch-size is of no use beside --model"),
        (
            ["--images", ".", "--teacher", "a:b", "--dtype", "float32"],
            2,
            "--dtype is of no use beside --images",
        ),
        (MODEL, 1, "logits.spk: holds no tokens of sequences, by which a language model could be asked again"),
    ],
)
def test_what_cannot_be_checked_is_said(here, words, code, said):
    with softpack.create("logits.spk", "raw", classes=40) as writer:
        writer.append(np.zeros((3, 40), np.float32), item=0, view=np.arange(3))
    found, _, err = run("check", "logits.spk", *words)
    assert (found, said in err) == (code, True), err
