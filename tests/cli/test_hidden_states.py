"""Hidden states of a language model on disk, and its checkpoint -> a file of labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import softpack

N, L, H, V = 12, 16, 10, 90
HEAD = {"lm_head.weight": (V, H), "model.embed_tokens.weight": (V, H), "model.layers.0.up.weight": (3 * H, H)}
TEACHER = "--matrix teacher.safetensors"


def checkpoint(path, shapes=HEAD):
    chance = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=chance).bfloat16() for name, shape in sorted(shapes.items())}
    save_file(tensors, path)
    return tensors


@pytest.fixture
def states_NLH(here):
    """States by their name in states.npz, without it in states.npy, and their teacher."""
    states_NLH = np.random.default_rng(0).normal(size=(N, L, H)).astype("f4")
    np.savez(here / "states.npz", hidden=states_NLH)
    np.save(here / "states.npy", states_NLH)
    checkpoint(here / "teacher.safetensors")
    return states_NLH


def logits_of(states_NLH, here):
    matrix_VH = checkpoint(here / "again.safetensors")["lm_head.weight"].float()
    return torch.from_numpy(states_NLH).flatten(0, 1) @ matrix_VH.T


def test_hidden_states_become_labels_near_the_teacher(run, here, states_NLH):
    facts = run(f"encode states.npz -o new.spk {TEACHER} --target-bits 60 --json").json
    assert (facts["codec"], facts["classes"], facts["encoded_from"], facts["rows"]) == (
        "head",
        V,
        "hidden",
        N * L,
    )
    labels = softpack.open(here / "new.spk")
    decoded_BC = labels.read(*labels.cells(np.arange(N * L)))
    near = softpack.fidelity(decoded_BC, logits_of(states_NLH, here), (1,)).temperatures[1.0]

    said = json.loads(run("eval new.spk --against states.npz --temperature 1 --json").out)

    assert 0 < near.kl_mean < 0.1
    assert said["temperatures"]["1"]["kl_mean"] == pytest.approx(near.kl_mean, rel=1e-5)
    assert said["rows"] == N * L


def test_an_array_without_a_name_is_of_hidden_states_where_that_is_said(run, here, states_NLH):
    run(f"encode states.npz -o named.spk {TEACHER} --target-bits 60")
    run(f"encode states.npy --space hidden -o bare.spk {TEACHER} --codec head --target-bits 60")
    assert (here / "named.spk").read_bytes() == (here / "bare.spk").read_bytes()


def test_a_matrix_outside_is_named_by_its_hash(run, here, states_NLH, refused):
    run(f"encode states.npz -o inside.spk {TEACHER} --target-bits 60")
    run(f"encode states.npz -o new.spk {TEACHER} --matrix-outside --target-bits 60")
    assert (here / "new.spk").stat().st_size < (here / "inside.spk").stat().st_size - V * H
    assert "give the teacher's checkpoint" in refused("eval new.spk --against states.npz")
    ran = run(f"eval new.spk --against states.npz {TEACHER} --json")
    assert ran.out == run("eval inside.spk --against states.npz --json").out


def test_states_lie_beside_the_labels_that_were_made_of_them(run, here, states_NLH):
    logits_NLV = logits_of(states_NLH, here).reshape(N, L, V).numpy()
    np.savez(here / "both.npz", hidden=states_NLH, logits=logits_NLV)
    facts = run("encode both.npz -o labels_alone.spk --codec raw --json").json
    assert (facts["encoded_from"], facts["classes"]) == ("logits", V)
    facts = run(f"encode both.npz --space hidden -o new.spk {TEACHER} --target-bits 60 --json").json
    assert (facts["encoded_from"], facts["classes"]) == ("hidden", V)
    of_logits = json.loads(run("eval new.spk --against both.npz --json").out)
    of_states = json.loads(run("eval new.spk --against both.npz --space hidden --json").out)
    assert of_logits["temperatures"]["1"]["kl_mean"] == pytest.approx(of_states["temperatures"]["1"]["kl_mean"])


@pytest.mark.parametrize("outside", ["", "--matrix-outside"])
def test_a_codec_is_fitted_for_many_files(run, here, states_NLH, outside):
    run(f"fit states.npz -o head.spkm {TEACHER} {outside} --target-bits 60")
    run(f"encode states.npz -o new.spk --model head.spkm {TEACHER if outside else ''}")
    ran = run(f"eval new.spk --against states.npz {TEACHER if outside else ''} --temperature 1 --json")
    assert ran.json["temperatures"]["1"]["kl_mean"] < 0.1


@pytest.mark.parametrize("outside", ["", "--matrix-outside"])
def test_an_interrupted_encoding_of_states_goes_on(run, here, states_NLH, interrupted, outside):
    line = f"encode states.npz -o {{}} {TEACHER} {outside} --target-bits 60"
    interrupted(line.format("new.spk"))
    assert "15 of 192 rows are there" in run(line.format("new.spk")).err
    run(line.format("other.spk"))
    assert (here / "new.spk").read_bytes() == (here / "other.spk").read_bytes()


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ({"model.embed_tokens.weight": (V, H), "a.weight": (2 * V, H)}, V),  # tied
        ({"model.embed_tokens.weight": (V, H), "lm_head.weight": (V + 1, H)}, V + 1),
        ({"output": (V, H), "norm": (H,), "other": (V, H + 1)}, V),  # the only one that can be
    ],
)
def test_the_output_matrix_is_found_by_its_name(run, here, states_NLH, shapes, found):
    (here / "teacher").mkdir()
    checkpoint(here / "teacher" / "model.safetensors", shapes)
    facts = run("encode states.npz -o new.spk --matrix teacher --target-bits 60 --json").json
    assert facts["classes"] == found


UNKNOWN = (
    "which tensor is the output matrix [tokens, 10] is not to be seen; found a [90, 10], b [90, 10]; give safetensors "
    "with a tensor lm_head.weight"
)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"a": (V, H), "b": (V, H)}, UNKNOWN),
        ({"lm_head.weight": (V, H + 1)}, "found none with 10 columns"),
        (
            {"lm_head.weight": (V, H), "lm_head.bias": (V,)},
            "lm_head.bias besides, and codec head knows of no bias",
        ),
    ],
)
def test_a_checkpoint_that_does_not_say_the_matrix_is_refused(refused, here, states_NLH, shapes, message):
    checkpoint(here / "teacher.safetensors", shapes)
    assert message in refused(f"encode states.npz -o new.spk {TEACHER}")


STATES = "encode states.npz -o new.spk"
LACKS = (
    "holds hidden states of 10 numbers, of which the teacher's output matrix makes logits; give its checkpoint: "
    "--matrix teacher/model.safetensors"
)
OTHERS = (
    "states.npz holds hidden states of 10 numbers, and labels.spk was not made of such, but of logits of 10"
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (STATES, LACKS),
        (f"{STATES} --codec klt", "codec klt takes rows of logits, log_probs, probs; these are hidden states"),
        (
            f"{STATES} --codec klt {TEACHER}",
            "codec klt takes rows of logits, log_probs, probs; these are hidden",
        ),
        (f"{STATES} {TEACHER} --target-kl 0.1", "give --target-bits, and see by `softpack eval`"),
        (f"{STATES} {TEACHER} --budget 1MB", "give --target-bits, and see by `softpack eval`"),
        (f"{STATES} --matrix states.npz", "states.npz: is no safetensors file"),
        (
            f"encode logits.npz -o new.spk {TEACHER}",
            "holds logits, which no output matrix makes; leave --matrix",
        ),
        ("encode logits.npz -o new.spk --matrix-outside", "holds logits, which no output matrix makes"),
        ("bench rd states.npz -o rd", "holds hidden states, and rates are measured on labels"),
        ("eval labels.spk --against states.npz", OTHERS),
    ],
)
def test_what_cannot_be_is_refused(refused, states_NLH, line, message):
    assert message in refused(line)


def test_a_model_says_where_its_matrix_is(refused, run, states_NLH):
    run(f"fit states.npz -o head.spkm {TEACHER} --target-bits 60")
    assert "cannot go with --model" in refused(f"{STATES} --model head.spkm --matrix-outside {TEACHER}", code=2)
    said = refused(f"{STATES} --model head.spkm {TEACHER}")
    assert "head.spkm: all that rows are coded by is in the file; leave the matrix out" in said


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"logits_soft_cap": 30.0}, "logits_soft_cap"),
        ({"dim_model_base": 256, "hidden_size": 2560}, "dim_model_base"),
        ({"text_config": {"logit_scale": 0.0625, "logits_scaling": 8}}, "logit_scale, logits_scaling"),
    ],
)
def test_a_model_that_changes_logits_after_its_matrix_is_refused(refused, here, states_NLH, config, changes):
    (here / "config.json").write_text(json.dumps(config))
    message = f"config.json: logits are changed after the output matrix ({changes})"
    assert message in refused(f"{STATES} {TEACHER}")


@pytest.mark.parametrize(
    "config", ['{"final_logit_softcapping": null, "logit_scale": 1.0}', "[1]", "not JSON", '""']
)
def test_a_configuration_that_says_nothing_of_logits_is_no_matter(run, here, states_NLH, config):
    (here / "config.json").write_text(config)
    run(f"fit states.npz -o head.spkm {TEACHER} --target-bits 60")


@pytest.mark.parametrize("named", [torch.float32, torch.bfloat16, torch.float16])
def test_a_matrix_is_found_in_a_checkpoint_of_another_dtype(here, states_NLH, named):
    loaded_VH = checkpoint(here / "teacher.safetensors")["lm_head.weight"].to(named)  # as a model may load it
    rows_BH = states_NLH.reshape(-1, H)
    with softpack.create("a.spk", "head", matrix=loaded_VH, matrix_inside=False, bits=60.0) as writer:
        writer.append(rows_BH, item=np.arange(len(rows_BH)), view=0)
    labels, same = (softpack.open("a.spk", matrix=given) for given in ("teacher.safetensors", loaded_VH))
    cells = labels.cells()
    assert torch.equal(labels.read(*cells), same.read(*cells))
