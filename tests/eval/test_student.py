from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from softpack.errors import DataError
from softpack.eval.student import accuracy, train_student
from softpack.records import LabelSpec

LOGITS = LabelSpec(4)


def toy(labels: torch.Tensor | None = None, shuffle: bool = True) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Images of 2 x 3 numbers whose labels a linear model can give."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(128, 2, 3, generator=generator)
    teacher = images.flatten(1) @ torch.randn(6, 4, generator=generator)
    labels = teacher if labels is None else labels
    return DataLoader(TensorDataset(images, teacher.argmax(1), labels), batch_size=32, shuffle=shuffle)


def student() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 4))


def teacher_logits() -> torch.Tensor:
    return torch.cat([labels for _, _, labels in toy(shuffle=False)])


def test_a_student_learns_its_teacher() -> None:
    model = student()
    before = accuracy(model, toy())

    losses = train_student(model, toy(), LOGITS, epochs=30, lr=0.1, weight_decay=0.0)

    assert before < 0.6
    assert accuracy(model, toy()) > 0.97
    assert len(losses) == 30
    assert losses[-1] < losses[0] / 50


@pytest.mark.parametrize(("space", "temperature"), [("log_probs", 1.0), ("log_probs", 4.0), ("probs", 2.0)])
def test_the_space_of_the_labels_makes_no_difference(space: str, temperature: float) -> None:
    logs = (teacher_logits() / temperature).log_softmax(1)
    labels = logs if space == "log_probs" else logs.exp()
    ours, theirs = student(), student()

    from_logits = train_student(ours, toy(), LOGITS, epochs=3, temperature=4.0, lr=0.05)
    converted = train_student(
        theirs, toy(labels), LabelSpec(4, space, temperature), epochs=3, temperature=4.0, lr=0.05
    )

    assert converted == pytest.approx(from_logits, rel=1e-3)


def test_the_same_seed_gives_the_same_student_and_leaves_the_generator_alone() -> None:
    models = [student() for _ in range(3)]
    torch.manual_seed(99)
    state = torch.random.get_rng_state()

    for model, seed in zip(models, (5, 5, 6), strict=True):
        train_student(model, toy(), LOGITS, epochs=2, seed=seed)

    weights = [model[1].weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_accuracy_counts_each_image_once_and_only_evaluates() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Dropout(1.0))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0]))
    targets = torch.tensor([2, 2, 2, 0, 1])
    loader = DataLoader(TensorDataset(torch.zeros(5, 6), targets), batch_size=4)

    assert accuracy(model, loader) == 0.6
    assert not model.training


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(DataError, match="gave no rows in epoch 0"):
        train_student(student(), [], LOGITS, epochs=1)
    with pytest.raises(DataError, match="gave no images to measure accuracy on"):
        accuracy(student(), [])
    with pytest.raises(DataError, match="loss of epoch 0 is nan; expected a finite one"):
        train_student(student(), toy(torch.full((128, 4), math.nan)), LOGITS, epochs=1)
