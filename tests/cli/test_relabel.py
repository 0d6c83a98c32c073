"""`softpack relabel` and `softpack check`, from a folder of images and a module that gives the teacher."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

TEACHER = """
import torch
from torch import nn

def load(seed=0):
    torch.manual_seed(seed)
    last = nn.Linear(72, 11)
    nn.init.normal_(last.weight, std=4)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), last)

def other():
    return load(1)

ready = load()
number = 5
images = [torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8) for _ in range(4)]
"""


@pytest.fixture
def folder(here, monkeypatch):
    random = np.random.default_rng(0)
    for item in range(12):
        path = here / "images" / f"class {item % 3}" / f"{item}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = random.integers(0, 256, (5, 5, 3))
        Image.fromarray(np.kron(fields, np.ones((5, 4 + item % 2, 1))).astype(np.uint8)).save(path)
    (here / "a_teacher.py").write_text(TEACHER)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "a_teacher", raising=False)
    return here


LABEL = "relabel images -o a.spk --teacher a_teacher:load --views 5 --size 16 --mix cutmix --codec raw"


def test_a_folder_is_labelled_and_checked(folder, run):
    ran = run(LABEL)
    assert "60 of 12 items x 5 views" in ran.out
    assert "mix=cutmix" in ran.out
    assert "columns are drawn by it, not stored" in ran.out
    checked = run("check a.spk --images images --teacher a_teacher:load --json")
    assert checked.json["labels"]["rows"] == 60
    assert checked.json["labels"]["top1_agreement"] == 1.0
    assert checked.json["control"]["temperatures"]["1"]["kl_mean"] < 1e-9


def test_the_check_is_a_table(folder, run):
    run(LABEL)
    lines = run("check a.spk --images images --teacher a_teacher:ready --rows 50").out.splitlines()
    assert lines[0].split() == ["T", "KL", "mean", "KL", "p99", "KL", "max", "control"]
    assert [line.split()[0] for line in lines[2:5]] == ["1", "4", "20"]
    assert lines[-1] == "top-1 agreement 100.00% of 50 rows; control 100.00%"


def test_facts_as_json(folder, run):
    facts = run(f"{LABEL} --seed 7 --flip 0 --store-replay --json").json
    assert facts["recipe"] | {"seed": 7, "flip": 0.0, "items": 12, "size": 16} == facts["recipe"]
    assert facts["columns_are_drawn"] is False
    assert facts["columns"] == ["crop_xywh", "mix_item", "mix_box_xyxy", "source_hw", "target"]


def test_a_committee_and_a_dataset_by_name(folder, run):
    ran = run(
        "relabel a_teacher:images -o a.spk --teacher a_teacher:load --teacher a_teacher:other --views 2 --size 8 "
        "--no-crop --codec raw --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2 --json"
    )
    assert ran.json["items"] == 4
    assert ran.json["columns"] == ["flip", "source_hw"]
    same = "--teacher a_teacher:load --teacher a_teacher:other --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2"
    checked = run(f"check a.spk --images a_teacher:images {same} --json")
    assert checked.json["labels"]["top1_agreement"] == 1.0


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (LABEL.replace("a_teacher:load", "a_teacher"), 1, "expected MODULE:NAME, such as my_teacher:load"),
        (
            LABEL.replace("a_teacher:load", "no_teacher:load"),
            1,
            "expected a module in this folder, or an installed",
        ),
        (LABEL.replace("a_teacher:load", "a_teacher:none"), 1, "the module a_teacher has no none"),
        (LABEL.replace("a_teacher:load", "a_teacher:number"), 1, "the teacher is int; expected a torch module"),
        (LABEL.replace(" images ", " nowhere "), 1, "nowhere: is no folder; expected a folder with a folder"),
        (LABEL.replace("--size 16", "--size 0"), 1, "recipe: size is 0; expected 1 to 32768 pixels"),
        (LABEL + " --mean 0.5,x", 2, "expected a number for each channel"),
        (LABEL + " --mean 0.5,0.5,0.5", 1, "std is missing; give mean and std, or neither"),
        (LABEL + " --target-bits 8 --target-kl 1", 2, "cannot go together: give one target"),
        (LABEL.replace("-o a.spk", "-o none/a.spk"), 1, "there is no folder none"),
        (LABEL + " --codec none", 1, "none"),
        ("check a.spk --images images --teacher a_teacher:load", 1, "a.spk"),
    ],
)
def test_what_cannot_be_done_is_said(folder, refused, line, code, said):
    assert said in refused(line, code)


def test_a_file_is_overwritten_with_force_alone(folder, run, refused):
    run(LABEL)
    refused(LABEL)
    run(LABEL + " --force")
