"""Train a student on images whose every view has its own soft label; crops and flips are done again from the file."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, softmax
from torch.utils.data import DataLoader

import softpack
from softpack.data import Augmentation

ITEMS, VIEWS, CLASSES, SIZE, T = 256, 6, 10, 8, 2.0
REPLAY = softpack.replay(SIZE, mean=(0.5,) * 3, std=(0.3,) * 3)


def label_views(path: Path, images: np.ndarray) -> None:
    """Crop and flip every image anew in each epoch, let a teacher label it, and keep label and augmentation."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
    with softpack.create(path, codec="quantize", bits=4, items=ITEMS, views=VIEWS, classes=CLASSES) as writer:
        for epoch in range(VIEWS):
            crop_B4 = np.stack([*random.integers(0, 4, (2, ITEMS)), *random.integers(8, 13, (2, ITEMS))], axis=1)
            flip_B = random.random(ITEMS) < 0.5
            done_B = [Augmentation(crop_xywh=crop, flip=flip) for crop, flip in zip(crop_B4.tolist(), flip_B)]
            pixels = torch.stack([REPLAY(image, done) for image, done in zip(images, done_B)])
            logits_BC = 4 * teacher(pixels).detach()
            writer.append(logits_BC, item=np.arange(ITEMS), view=epoch, crop_xywh=crop_B4, flip=flip_B)


def main() -> None:
    """Label, then train: each epoch sees the next view of every image, in any order and batch size."""
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    images = np.random.default_rng(1).integers(0, 256, (ITEMS, 16, 16, 3), np.uint8)
    label_views(path, images)
    dataset = softpack.SoftLabelDataset(images, path, transform=REPLAY)
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for epoch in range(VIEWS):
        losses = []
        for pixels, labels_BC in loader:  # decoded float32 logits of these very views
            target_BC = softmax(labels_BC / T, dim=1)
            loss = T**2 * kl_div(log_softmax(student(pixels) / T, dim=1), target_BC, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch}: KL at T={T:g} is {sum(losses) / len(losses):.3f}")


if __name__ == "__main__":
    main()
