"""Train a student whose every view has its own soft label; crops and flips are done again from the file."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import softpack
from softpack.data import Augmentation

ITEMS, VIEWS, CLASSES, SIZE, T = 256, 6, 10, 8, 2.0
IMAGES = np.random.default_rng(1).integers(0, 256, (ITEMS, 16, 16, 3), np.uint8)
REPLAY = softpack.replay(SIZE, mean=(0.5,) * 3, std=(0.3,) * 3)


def label_views(path: Path, teacher: nn.Module) -> None:
    """Crop and flip every image anew in each epoch; keep the teacher's label and what was done to the image."""
    random = np.random.default_rng(0)
    with softpack.create(path, codec="quantize", bits=4, items=ITEMS, views=VIEWS, classes=CLASSES) as writer:
        for epoch in range(VIEWS):
            crop_B4 = np.stack(
                [*random.integers(0, 4, (2, ITEMS)), *random.integers(8, 13, (2, ITEMS))], axis=1
            )
            flip_B = random.random(ITEMS) < 0.5
            views = zip(IMAGES, crop_B4.tolist(), flip_B, strict=True)
            pixels = torch.stack([REPLAY(image, Augmentation(crop, flip=flip)) for image, crop, flip in views])
            labels_BC = 4 * teacher(pixels).detach()
            writer.append(labels_BC, item=np.arange(ITEMS), view=epoch, crop_xywh=crop_B4, flip=flip_B)


if __name__ == "__main__":
    torch.manual_seed(0)
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    label_views(path, teacher=nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES)))
    dataset = softpack.SoftLabelDataset(IMAGES, path, transform=REPLAY)
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for epoch in range(VIEWS):  # each sees the next view of every image
        for pixels, labels in loader:  # in any order and batch size, each label with the pixels of its view
            loss = softpack.losses.kl(student(pixels), labels, temperature=T)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: KL of the last batch at T={T:g} is {loss.item():.3f}")
