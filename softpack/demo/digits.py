"""What labels are worth, in accuracy: students of real digits from full, compressed and hard labels.

scikit-learn's 1,797 scanned digits are split in three: a student has 10 images of each class; a teacher has those
that are left; 600 are for testing, and neither has seen them. The teacher labels views of the student's images.
Every student sees the same views in the same order, starts from the same weights under the same seed, and is
measured after its last epoch. Hard labels of CutMix views are mixed by area, as CutMix does it, and
trained on at T=1. The setting was not tuned for any arm, hard labels included.

Shapes in names: N items, V views, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from softpack.data.dataset import SoftLabelDataset
from softpack.data.replay import Replay
from softpack.demo.teacher import demo_import, draw_views, label_views, view_pixels
from softpack.eval.student import Batch, accuracy, train_student
from softpack.records import LabelSpec

CLASSES = 10
PER_CLASS = 10  # images of the student
TEST = 600
ENLARGED = 24  # pixels of an item: digits of 8 x 8, enlarged so that crops can be finer than a pixel of theirs
SIZE = 12  # pixels of a view
VIEWS = 50
EPOCHS = 50
AREA = (0.4, 1.0)
MIXED = 0.5
TEMPERATURE = 2.0
TEACHER_VIEWS = 8
TEACHER_EPOCHS = 5
SEEDS = (0, 1, 2)
Image = tuple[Tensor, int]  # uint8 [1, ENLARGED, ENLARGED] and its class


@dataclass(frozen=True)
class Digits:
    """The student's images with the labels of their views, and the test images.

    Args:
        images: N of them, in the order of the items.
        columns: replay columns of their views, as `draw_views` gives them.
        logits_NVC: the teacher's, float16.
        hard_NVC: hard labels, float32 probabilities.
        test: images that neither teacher nor student was trained on.
        teacher_accuracy: on the test images.
    """

    images: list[Image]
    columns: dict[str, np.ndarray]
    logits_NVC: np.ndarray
    hard_NVC: np.ndarray
    test: list[Image]
    teacher_accuracy: float


@dataclass(frozen=True)
class Arm:
    """Students of one kind of labels.

    Args:
        name: of the labels.
        accuracies: on the test images, one for each seed.
    """

    name: str
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy over the seeds."""
        return sum(self.accuracies) / len(self.accuracies)


def make_digits(seed: int = 0) -> Digits:
    """Split the digits, train the teacher, and label the views of the student's images.

    Raises:
        DataError: scikit-learn is not installed.
    """
    student, teacher, test = split_digits(seed)
    network = train_teacher(teacher, seed)
    columns = _views(student, VIEWS, MIXED, seed)
    images = [image for image, _ in student]
    targets_N = np.array([target for _, target in student])
    return Digits(
        images=student,
        columns={**columns, "target": targets_N.astype(np.int32)},
        logits_NVC=label_views(network, images, columns, Replay(SIZE)),
        hard_NVC=hard_labels(targets_N, columns),
        test=test,
        teacher_accuracy=accuracy(network, _test_loader(test)),
    )


def train_arm(
    name: str,
    digits: Digits,
    labels: Any,
    spec: LabelSpec,
    temperature: float = TEMPERATURE,
    seeds: Sequence[int] = SEEDS,
) -> Arm:
    """Train one student a seed from labels, and return their accuracies.

    Args:
        name: of the arm.
        digits: images and test images.
        labels: path of an .spk file with the labels and `digits.columns`, or what `softpack.open` gives.
        spec: what its labels are.
        temperature: of the loss; 1 for hard labels, which T would flatten where CutMix mixed them.
        seeds: of initial weights and of the order of the images.
    """
    accuracies = []
    for seed in seeds:
        dataset = SoftLabelDataset(digits.images, labels, transform=Replay(SIZE))
        loader: DataLoader[Any] = DataLoader(dataset, batch_size=25, shuffle=True)
        network = _network(seed)
        train_student(network, loader, spec, epochs=EPOCHS, temperature=temperature, lr=5e-3, seed=seed)
        accuracies.append(accuracy(network, _test_loader(digits.test)))
    return Arm(name, tuple(accuracies))


def split_digits(seed: int = 0) -> tuple[list[Image], list[Image], list[Image]]:
    """Return the student's, the teacher's and the test images, which share none."""
    data = demo_import("sklearn.datasets").load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    test, train = order[:TEST], order[TEST:]
    student = np.concatenate([train[data.target[train] == c][:PER_CLASS] for c in range(CLASSES)])
    teacher = train[~np.isin(train, student)]
    small_N1HW = torch.from_numpy(data.images)[:, None].float() * (255 / 16)
    images_N1HW = nn.functional.interpolate(small_N1HW, size=(ENLARGED, ENLARGED), mode="bilinear")
    images_N1HW = images_N1HW.round().to(torch.uint8)

    def take(rows: np.ndarray) -> list[Image]:
        return [(images_N1HW[row], int(data.target[row])) for row in rows.tolist()]

    return take(student), take(teacher), take(test)


def train_teacher(images: list[Image], seed: int = 0) -> nn.Module:
    """Return a network trained on images with hard labels, each of them in many crops, without CutMix."""
    columns = _views(images, TEACHER_VIEWS, 0.0, seed + 1)
    network = _network(seed)
    targets_N = torch.tensor([target for _, target in images])
    labels_NC = torch.eye(CLASSES)[targets_N]
    pixels = [
        view_pixels([image for image, _ in images], columns, v, Replay(SIZE)) for v in range(TEACHER_VIEWS)
    ]
    rows = TensorDataset(torch.cat(pixels), targets_N.repeat(TEACHER_VIEWS), labels_NC.repeat(TEACHER_VIEWS, 1))
    loader = DataLoader(rows, batch_size=128, shuffle=True)
    train_student(network, loader, LabelSpec(CLASSES, "probs"), epochs=TEACHER_EPOCHS, lr=3e-3, seed=seed)
    return network.eval()


def hard_labels(targets_N: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return hard labels float32 [N, V, C]: one-hot, and of CutMix views both classes by their areas."""
    one_hot_NC = np.eye(CLASSES, dtype=np.float32)[targets_N]
    box_NV4 = columns["mix_box_xyxy"]
    area_NV = (box_NV4[..., 2] - box_NV4[..., 0]) * (box_NV4[..., 3] - box_NV4[..., 1]) / SIZE**2
    share_NV1 = area_NV[..., None].astype(np.float32)  # 0 where not mixed: -1 less -1
    hard: np.ndarray = (1 - share_NV1) * one_hot_NC[:, None] + share_NV1 * one_hot_NC[columns["mix_item"]]
    return hard


def _views(images: list[Image], n_views: int, mixed: float, seed: int) -> dict[str, np.ndarray]:
    hw = [(ENLARGED, ENLARGED)] * len(images)
    return draw_views(hw, n_views, SIZE, mixed=mixed, area=AREA, flip=0.0, seed=seed)  # a 2 is no 2 in a mirror


def _network(seed: int, width: int = 16) -> nn.Module:
    """Return a small convolutional network on [B, 1, SIZE, SIZE], its weights drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
            *(nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(2 * width * (SIZE // 4) ** 2, CLASSES)),
        )


def _test_loader(images: list[Image]) -> list[Batch]:
    """Return the whole test images as one batch."""
    replay = Replay(SIZE)
    return [
        (torch.stack([replay(image) for image, _ in images]), torch.tensor([target for _, target in images]))
    ]
