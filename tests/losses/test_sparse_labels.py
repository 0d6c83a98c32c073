"""Sparse labels of files say what whole rows of the same files say, and losses refuse what labels do not have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import softpack
from softpack import losses
from softpack.codecs.sparse import NO_CLASS, SparseRows
from softpack.errors import DataError
from softpack.records import LabelSpec

C = 40
GENERATOR = torch.Generator().manual_seed(0)
TEACHER_BC = 3 * torch.randn(30, C, generator=GENERATOR)
STUDENT_BC = 3 * torch.randn(30, C, generator=GENERATOR)
LOSSES = [losses.kl, losses.soft_cross_entropy, losses.reverse_kl, losses.js]
SPEC = LabelSpec(C, "log_probs")
VALUES_BK, IDS_BK = TEACHER_BC.log_softmax(1).topk(5)
TAIL_B = torch.log1p(-VALUES_BK.exp().sum(1))
NOTHING_B = torch.full((30,), -torch.inf)
TAILED = SparseRows(SPEC, IDS_BK, VALUES_BK, tails={1.0: TAIL_B, 2.0: TAIL_B})
ZERO = SparseRows(SPEC, IDS_BK, VALUES_BK, fill_B=NOTHING_B)
DRAWN = SparseRows(SPEC, IDS_BK, VALUES_BK.log_softmax(1), sampled=True)


@pytest.mark.parametrize("k", [7, C])
@pytest.mark.parametrize("tail", ["uniform", "zero", "min", "bucket"])
@pytest.mark.parametrize("space", ["logits", "probs"])
def test_topk_is_the_same_whole_and_sparse(tmp_path, tail, k, space):
    rows_BC = TEACHER_BC if space == "logits" else (TEACHER_BC / 2).softmax(1)
    with softpack.create(
        tmp_path / "a.spk",
        "topk",
        classes=C,
        space=space,
        temperature=1.0 if space == "logits" else 2.0,
        k=k,
        tail=tail,
    ) as writer:
        writer.append(rows_BC.numpy(), item=np.arange(30), view=np.zeros(30, int))
    labels = softpack.open(tmp_path / "a.spk")
    where = ([3, 0, 29, 11], [0] * 4)
    whole_BC, sparse = labels.read(*where), labels.read_sparse(*where)
    for loss in LOSSES[:2] if tail == "zero" and k < C else LOSSES:
        for T in (1.0, 4.0):
            found = []
            for label, spec in ((whole_BC, labels.spec), (sparse, None)):
                student_BC = STUDENT_BC[:4].clone().requires_grad_()
                value = loss(student_BC, label, T, spec=spec)
                value.backward()
                found.append((value.detach(), student_BC.grad))
            torch.testing.assert_close(*found)


def test_rows_without_any_class_are_made_whole_of_their_fill():
    label = SparseRows(SPEC, torch.full((30, 2), NO_CLASS), torch.zeros(30, 2), fill_B=TAIL_B)
    torch.testing.assert_close(label.dense(), torch.full((30, C), 1 / C).log())


def test_some_of_the_rows_are_taken():
    rows = torch.tensor([4, 1])
    for label in (TAILED, ZERO, DRAWN):
        some = label.take(rows)
        assert len(some) == 2
        assert torch.equal(some.at(1.0)[0], label.at(1.0)[0][rows])
        assert torch.equal(some.at(1.0)[1], label.at(1.0)[1][rows])


LONG_BTC = STUDENT_BC.view(5, 6, C)
BARE_BC = TEACHER_BC.clone()
BARE_BC[[2, 7], 3] = -torch.inf
REFUSED = {
    "drawn, reversed": (
        lambda: losses.reverse_kl(STUDENT_BC, DRAWN),
        r"reverse_kl: the labels were drawn, .* take kl or soft_cross_entropy",
    ),
    "drawn, js": (lambda: losses.js(STUDENT_BC, DRAWN), "js: the labels were drawn"),
    "zero, reversed": (
        lambda: losses.reverse_kl(STUDENT_BC, ZERO),
        r"reverse_kl: 30 of 30 rows give no probability to the classes that were not kept, as tail=zero and",
    ),
    "zero, js": (lambda: losses.js(STUDENT_BC, ZERO), "js: 30 of 30 rows .* encode with a tail that has some"),
    "-inf, reversed": (
        lambda: losses.reverse_kl(STUDENT_BC, BARE_BC),
        r"reverse_kl: 2 of 30 rows give no probability \(-inf\) to a class in which the student has some",
    ),
    "drawn, T": (lambda: losses.kl(STUDENT_BC, DRAWN, 2.0), r"the labels are draws at T=1, .* sample at 2"),
    "no tail at T": (
        lambda: losses.kl(STUDENT_BC, TAILED, 4.0),
        r"together at T=4; they say it for 1, 2; train at one of these, or encode with tail_temperatures=4",
    ),
    "no tail": (
        lambda: losses.kl(STUDENT_BC, SparseRows(SPEC, IDS_BK, VALUES_BK)),
        "they say it for no temperature",
    ),
    "shape": (
        lambda: losses.kl(STUDENT_BC[:4], TAILED),
        r"the student gives \[4, 40\] and the labels are \[30, 40\]; expected the same \[rows, classes\]",
    ),
    "vocabulary": (
        lambda: losses.kl(STUDENT_BC[:, :39], TAILED),
        r"gives \[30, 39\] and the labels are \[30, 40\]",
    ),
    "positions": (
        lambda: losses.kl(LONG_BTC, TAILED),
        r"the student gives \[5, 6, 40\] .*; flatten positions into rows: student_BTC.flatten\(0, 1\)",
    ),
    "spec": (
        lambda: losses.kl(STUDENT_BC, TAILED, spec=LabelSpec(C)),
        r"spec is LabelSpec\(.*logits.*\), but the sparse labels are LabelSpec\(.*log_probs.*leave spec out",
    ),
    "device": (
        lambda: losses.kl(STUDENT_BC, TAILED.to("meta")),
        r'the student is on cpu and the labels are on meta; expected one device; take label.to\("cpu"\)',
    ),
    "mask of numbers": (
        lambda: losses.kl(STUDENT_BC, TAILED, mask_B=torch.ones(30)),
        r"mask_B is torch.float32 \[30\]; expected torch.bool \[30\], True for rows that count, such as target_B",
    ),
    "mask of positions": (
        lambda: losses.kl(STUDENT_BC, TAILED, mask_B=torch.ones(5, 6, dtype=torch.bool)),
        r"mask_B is torch.bool \[5, 6\]; expected torch.bool \[30\]",
    ),
    "temperature": (lambda: losses.reverse_kl(STUDENT_BC, TAILED, 0.0), "the temperature is 0.0; expected"),
    "beta": (
        lambda: losses.js(STUDENT_BC, TAILED, beta=1.0),
        "js: beta is 1.0; expected above 0 and below 1; at the ends are kl and reverse_kl",
    ),
    "squares": (lambda: losses.logits_mse(STUDENT_BC, TAILED), "logits_mse: the labels are sparse, .* take kl"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_labels_do_not_have_is_refused(what):
    call, says = REFUSED[what]
    with pytest.raises(DataError, match=says):
        call()
