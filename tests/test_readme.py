"""README.md keeps its word: its Python runs, and its command lines are accepted.

Blocks fenced as ```python run in page order in one namespace, which begins with the names of `names` below. Of blocks
fenced as ```console, lines that begin with "$ softpack " are parsed; those whose input files are among `made` run too.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

import softpack
from softpack.cli import main
from tests.sources import teachers

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
FILE = re.compile(r"\.(spk|spkm|partial|npy|npz|h5|safetensors|jsonl)$")
N, V, C = 6, 3, 20


def blocks(language):
    """Yield (line number, text) of the blocks fenced with a language."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        yield README[: found.start(1)].count("\n") + 1, found[1]


def command_lines():
    """Return (line number, words) of each softpack command, without prompt and comment."""
    return [
        (number + offset, shlex.split(line, comments=True)[2:])
        for number, text in blocks("console")
        for offset, line in enumerate(text.replace("\\\n", "").splitlines())
        if line.startswith("$ softpack ")
    ]


def teacher():
    """Return a module of twenty classes."""
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, C))


def language_model():
    """Return a module of a hundred tokens, made and called as those of transformers are."""

    class Body(torch.nn.Embedding):
        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(last_hidden_state=super().forward(input_ids))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.lm_head = Body(100, 8), torch.nn.Linear(8, 100, bias=False)
            self.base_model_prefix = "model"

        def get_output_embeddings(self):
            return self.lm_head

        def forward(self, input_ids, attention_mask):
            states = self.model(input_ids, attention_mask).last_hidden_state
            return SimpleNamespace(logits=self.lm_head(states))

    return Model()


@pytest.fixture(name="names")
def names_():
    """What the page's Python takes for granted."""
    items_B, views_B = torch.arange(N).repeat_interleave(V), torch.arange(V).repeat(N)
    random = np.random.default_rng(0)
    return {
        "N": N, "V": V, "C": C, "items_B": items_B, "views_B": views_B,
        "logits_BC": torch.from_numpy(random.normal(size=(N * V, C)).astype("f4")),
        "crops_B4": torch.tensor([[1, 2, 20, 25]]).repeat(N * V, 1), "flips_B": views_B % 2 == 0,
        "images": random.integers(0, 256, (N, 40, 30, 3), np.uint8), "path": "labels.spk", "teacher": teacher(),
        "model": language_model(), "student": language_model(), "sequences": [[3, 1, 2], [7], [5, 5, 0, 9, 1]] * 9,
        "torch": torch,
    }  # fmt: skip


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with the files that the page's command lines read; the process stands in it."""
    monkeypatch.chdir(tmp_path)
    logits_NVC = np.random.default_rng(0).normal(size=(120, 2, 40)).astype("f2")
    np.save("logits.npy", logits_NVC)
    np.savez("logits.npz", logits=logits_NVC)
    for arguments in (
        "encode logits.npz -o labels.spk --codec raw",
        "fit logits.npz -o codec.spkm --codec raw",
    ):
        assert CliRunner().invoke(main, arguments.split()).exit_code == 0
    shutil.copy("labels.spk", "raw.spk")
    (tmp_path / "photos").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / "1.png")
    order = "--label-seed 42 --sampler new"
    written = CliRunner().invoke(main, f"decode labels.spk -o FKD_cutmix_fp16 --to sre2l {order}".split())
    assert written.exit_code == 0
    (tmp_path / "FKD_cutmix_fp16" / "sampler_indices_epoch.json").unlink()
    (tmp_path / "train" / "class").mkdir(parents=True)
    for item in range(120):
        Image.new("L", (9, 9)).save(tmp_path / "train" / "class" / f"{item:03d}.png")
    teachers.write_distillkit(tmp_path / "qwen_logits", teachers.say(k=16))
    teachers.write_megatron(tmp_path / "cache", teachers.Ranks(all_kept=True))
    (tmp_path / "my_teacher.py").write_text(
        "from torch import nn\n\n\ndef load():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, 40))\n"
    )
    return tmp_path


def test_python_runs(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    save_file(
        {"lm_head.weight": names["model"].lm_head.weight.detach()}, tmp_path / "teacher/model.safetensors"
    )
    found = list(blocks("python"))
    assert found
    for number, text in found:
        exec(compile("\n" * (number - 1) + text, "README.md", "exec"), names)
    labels = softpack.open("labels.spk")
    assert labels.shape == (N, V, C)
    assert labels.columns == ("crop_xywh", "flip")


def test_command_lines_are_accepted():
    found = command_lines()
    if not found:
        pytest.fail("README.md shows no softpack command")
    context = click.Context(main)
    for number, (name, *arguments) in found:
        command = main.get_command(context, name)
        assert command is not None, f"README.md, line {number}: there is no command {name}"
        try:
            command.make_context(name, list(arguments))
        except click.UsageError as error:
            pytest.fail(f"README.md, line {number}: softpack {shlex.join([name, *arguments])}: {error}")


def test_command_lines_run(made):
    ran = 0
    for number, words in command_lines():
        out = words[words.index("-o") + 1] if "-o" in words else None
        needed = [word for word in words if FILE.search(word) and word != out]
        if words[0] in ("demo", "bench") or not all((made / name).exists() for name in needed):
            continue
        if out and (made / out).is_dir():
            shutil.rmtree(made / out)
        elif out:
            (made / out).unlink(missing_ok=True)
        trains = (
            words[0] in ("encode", "fit", "transcode", "relabel")
            and {"vqae"} >= {*_codec(words)}
            and "--model" not in words
        )
        short = (
            ["--set", "steps=2", "--set", "search=0"]
            if trains and (words[0] != "transcode" or "--target-bits" in words)
            else []
        )
        done = CliRunner().invoke(main, [*words, *short])
        assert done.exit_code == 0, f"README.md, line {number}: softpack {shlex.join(words)}: {done.output}"
        ran += 1
    if not ran:
        pytest.fail("README.md shows no softpack command that runs on made files")


def _codec(words):
    return words[words.index("--codec") + 1 :][:1] if "--codec" in words else []
