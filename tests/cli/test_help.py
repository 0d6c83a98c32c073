"""Help with its examples, what is imported for it, and what goes to a terminal."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from softpack.cli import COMMANDS, main
from softpack.cli.progress import Bar
from softpack.errors import NotSpkError

# Stands in for torch: whoever imports it is found out.
WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise RuntimeError("torch was imported")

sys.meta_path.insert(0, NoTorch())
from click.testing import CliRunner
from softpack.cli import COMMANDS, main

lines = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
for command in (["info"], ["info", "--json"], ["verify"], ["ledger"], ["ledger", "--json"], ["recover"]):
    lines.append([*command, sys.argv[1]])
for line in lines:
    ran = CliRunner().invoke(main, line)
    if ran.exit_code or not ran.stdout:
        sys.exit(f"{line}: {ran.exit_code} {ran.stderr} {ran.exception!r}")
print(len(lines))
"""


# Runs the lines of its input, each of which is to be refused before torch is imported.
REFUSED_WITHOUT_TORCH = """
import shlex, sys
from click.testing import CliRunner
from softpack.cli import main

for line in sys.stdin.read().splitlines():
    ran = CliRunner().invoke(main, shlex.split(line))
    if ran.exit_code not in (1, 2) or not ran.stderr:
        sys.exit(f"{line}: {ran.exit_code} {ran.stderr} {ran.exception!r}")
    if "torch" in sys.modules:
        sys.exit(f"{line}: torch was imported")
"""
TOLD = r"softpack: (tried|fitting|.*: [\d,]+ of [\d,]+ \w+,|note: .* bits a label more|.*: .* bits a label, fitted)"
MISTYPED = """\
encode nosuch.npz -o new.spk
encode logits.txt -o new.spk
encode logits.npz -o labels.spk
encode logits.npz -o nowhere/new.spk
encode logits.npz -o new.spk --from nosuch
encode logits.npz -o new.spk --set k
encode logits.npz -o new.spk --set k=1 --set k=2
encode logits.npz -o new.spk --codec nosuch
encode logits.npz -o new.spk --space probs
encode logits.npz -o new.spk --model nosuch.spkm
encode logits.npz -o new.spk --model labels.spk --codec raw
encode other.npz -o new.spk
encode cut.spk -o new.spk
fit nosuch.npz -o new.spkm
fit logits.npz -o labels.spk
fit logits.npz -o new.spkm --set k
transcode nosuch.spk -o new.spk
transcode logits.npz -o new.spk
transcode cut.spk -o new.spk --codec raw
transcode labels.spk -o labels.spk
transcode labels.spk -o raw.spk
transcode labels.spk -o new.spk --set k=3
transcode labels.spk -o new.spk --codec raw --set dtype
decode nosuch.spk -o new.npz
decode logits.npz -o new.h5
decode labels.spk -o logits.npy
decode labels.spk -o new.txt
decode labels.spk -o new.npz --to txt
decode labels.spk -o new.npz --items 3
eval nosuch.spk --against logits.npz
eval labels.spk --against nosuch.npz
eval labels.spk --against logits.txt
eval labels.spk --against other.npz
recover cut.spk
encode logits.npz -o new.spk --target-bits 8 --budget 4KB
encode logits.npz -o new.spk --budget many
bench rd nosuch.npz -o rd
bench rd logits.npz -o rd --codecs nosuch
"""


def examples_of(command):
    """Return the command lines in a command's help."""
    return [line.strip() for line in command.epilog.splitlines() if line.startswith("  softpack ")]


def commands():
    context = click.Context(main)
    return {name: main.get_command(context, name) for name in COMMANDS}


def test_commands_that_need_no_torch_do_not_import_it(here):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "labels.spk"], capture_output=True, text=True, env=_environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == 23


def test_what_is_mistyped_is_refused_before_torch_is_imported(here):
    (here / "logits.txt").write_text("1 2 3")
    (here / "cut.spk").write_bytes((here / "labels.spk").read_bytes()[:100])
    shutil.copy("labels.spk", "raw.spk")
    np.savez(here / "other.npz", scores=np.zeros((2, 2)))
    before = set(here.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_WITHOUT_TORCH], input=MISTYPED, capture_output=True, text=True,
        env=_environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert set(here.iterdir()) == before


def test_help_lists_every_command_whole(run_any):
    ran = run_any("--help")
    said = ran.out.split("Commands:\n")[1]
    assert [line.split()[0] for line in said.splitlines()] == list(COMMANDS)
    assert "..." not in said
    assert ran.out == run_any("-h").out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_ends_with_examples(run_any, name):
    said = run_any(f"{name} --help").out.splitlines()
    examples = examples_of(commands()[name])
    assert examples
    assert [line.strip() for line in said[-len(examples) :]] == examples
    assert said[-len(examples) - 1].strip() in ("Example:", "Examples:")


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"demo"}))
def test_examples_of_help_run(run_any, here, name):
    many_NVC = np.random.default_rng(2).normal(size=(120, 2, 40)).astype("f2")
    for source in ("logits", "more"):
        np.savez(here / f"{source}.npz", logits=many_NVC)
    assert run_any("encode logits.npz -o labels.spk --codec raw --force").code == 0
    shutil.copy("labels.spk", "raw.spk")
    (here / "photos").mkdir()
    if name in ("relabel", "check"):
        labelled(here, run_any)
    if name == "capture":
        save_language_model(here / "teacher")
        (here / "texts.jsonl").write_text('{"text": "w1 w2 w3"}\n' * 8)
        (here / "book.txt").write_text("w5 w6 w7 w8 " * 300)
    if name == "check":
        save_language_model(here / "teacher")
        np.savez(here / "ids.npz", input_ids=np.arange(60).reshape(6, 10))
        assert run_any("capture ids.npz -o text.spk --model ./teacher --set k=4").code == 0
    if name == "encode":
        np.savez(here / "states.npz", hidden=many_NVC)
        (here / "teacher").mkdir()
        save_file({"lm_head.weight": torch.randn(90, 40)}, here / "teacher" / "model.safetensors")
    for line in examples_of(commands()[name]):
        arguments = shlex.split(line)[1:]
        if "-o" in arguments:
            Path(arguments[arguments.index("-o") + 1]).unlink(missing_ok=True)
        if name == "recover":
            (here / "labels.spk").rename("labels.spk.partial")
        trains = "--target-bits" in line and name != "capture" and "--matrix" not in line
        short = " --set steps=2 --set search=0" if trains else ""  # of the thousands that vqae takes
        ran = run_any(shlex.join(arguments) + short)
        told = [line for line in ran.err.splitlines() if not re.match(TOLD, line)]
        assert (ran.code, told, ran.error) == (0, [], None), line


def save_language_model(folder):
    """Save a tiny model of transformers with its tokenizer."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {
        word: number for number, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{n}" for n in range(97))])
    }
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def labelled(here, run_any):
    """Make images, a teacher, and labels of theirs."""
    for item in range(4):
        (here / "images" / f"{item % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(item).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(here / "images" / f"{item % 2}" / f"{item}.png")
    (here / "my_teacher.py").write_text(
        "from torch import nn\n\n\ndef load():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, 40))\n"
    )
    line = "relabel images -o labels.spk --teacher my_teacher:load --views 5 --size 16 --codec raw --force"
    assert run_any(line).code == 0


def test_example_of_the_demo_is_accepted():
    (line,) = examples_of(commands()["demo"])
    context = commands()["demo"].make_context("demo", shlex.split(line)[2:])
    assert context.params == {"out": "demo", "seed": 0, "as_json": False}


def test_examples_at_the_beginning_of_help_are_those_of_the_commands(run_any):
    assert "softpack encode logits.npz -o labels.spk  " in run_any("--help").out
    assert "softpack eval labels.spk --against logits.npz  " in run_any("--help").out


@pytest.mark.parametrize(
    "line", ["--debug info logits.npy", "info logits.npy --debug", "info --debug logits.npy"]
)
def test_debug_shows_where_an_error_comes_from(run_any, line):
    ran = run_any(line)
    assert isinstance(ran.error, NotSpkError)
    assert run_any("info logits.npy").error is None  # and is forgotten after the command


def test_exit_code_streams_and_traceback_of_a_process(here):
    def softpack(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "softpack", *arguments], capture_output=True, text=True, env=_environment()
        )

    found = softpack("info", "labels.spk")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.startswith("file ")
    refused = softpack("info", "logits.npy")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("softpack: logits.npy is not an .spk file")
    debugged = softpack("info", "logits.npy", "--debug")
    assert (debugged.returncode, debugged.stdout) == (1, "")
    assert debugged.stderr.startswith("Traceback")
    assert "softpack.errors.NotSpkError: logits.npy is not" in debugged.stderr
    wrong = softpack("info")
    assert (wrong.returncode, wrong.stdout) == (2, "")


class Screen:
    """A stream that remembers, and says whether it is a terminal."""

    encoding = "utf-8"

    def __init__(self, is_terminal):
        self.is_terminal, self.seen = is_terminal, ""

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.seen += text

    def flush(self):
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_for_terminals(monkeypatch, is_terminal):
    screen = Screen(is_terminal)
    monkeypatch.setattr("sys.stderr", screen)
    with Bar("encoding") as bar:
        bar(0, 10)
        bar(5, 10, "KL 0.1")
    assert ("encoding" in screen.seen) is is_terminal


def test_a_log_gets_a_line_now_and_then(monkeypatch):
    screen, now = Screen(is_terminal=False), [100.0]
    monkeypatch.setattr("sys.stderr", screen)
    with Bar("encoding", clock=lambda: now[0]) as bar:
        for second in range(1, 61):
            now[0] = 100.0 + second
            bar(1000 * second, 3_700_000, "KL 0.1" if second > 40 else "")
    assert screen.seen.splitlines() == [
        "softpack: encoding: 15,000 of 3,700,000 rows, 1,000 rows/s, 1:01:25 left",
        "softpack: encoding: 30,000 of 3,700,000 rows, 1,000 rows/s, 1:01:10 left",
        "softpack: encoding: 45,000 of 3,700,000 rows, 1,000 rows/s, 1:00:55 left, KL 0.1",
        "softpack: encoding: 60,000 of 3,700,000 rows, 1,000 rows/s, 1:00:40 left, KL 0.1",
    ]


def test_a_log_of_slow_steps_says_nothing_before_the_first_or_after_the_last(monkeypatch):
    screen, now = Screen(is_terminal=False), [0.0]
    monkeypatch.setattr("sys.stderr", screen)
    with Bar("fitting vqae", "step", lambda: now[0]) as bar:
        for done, at in ((0, 20), (1, 22), (2, 36), (3, 38), (4, 60)):
            now[0] = at
            bar(done, 4)
    assert screen.seen.splitlines() == ["softpack: fitting vqae: 1 of 4 steps, 0.5 steps/s, 00:06 left",
                                        "softpack: fitting vqae: 3 of 4 steps, 0.17 steps/s, 00:06 left"]  # fmt: skip


def test_a_bar_that_begins_anew_counts_its_own_time(monkeypatch):
    screen, now = Screen(is_terminal=False), [0.0]
    monkeypatch.setattr("sys.stderr", screen)
    with Bar("fitting", "step", lambda: now[0]) as bar:
        for done, at in ((0, 0), (4, 10), (0, 100), (1, 120), (2, 140)):
            now[0] = at
            bar(done, 4)
    assert screen.seen.splitlines() == ["softpack: fitting: 1 of 4 steps, 0.05 steps/s, 01:00 left",
                                        "softpack: fitting: 2 of 4 steps, 0.05 steps/s, 00:40 left"]  # fmt: skip


def test_no_progress_of_short_work_where_stderr_is_no_terminal(run):
    for line in ("encode logits.npz -o new.spk --codec raw", "verify new.spk", "eval new.spk --against logits.npz",
                 "transcode new.spk -o again.spk", "decode new.spk -o new.npz"):  # fmt: skip
        assert run(line).err == ""


def _environment():
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
