"""Train with augmentations of your own, as timm has them: draw them from (seed, item, view), and keep labels alone."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import softpack

ITEMS, VIEWS, CLASSES, SIZE, SEED = 128, 6, 10, 8, 5
IMAGES = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (ITEMS, 3, SIZE, SIZE), np.uint8))


class Augmented(Dataset):
    """Gives (pixels, item, view) of (item, view): what random erasing and jitter made of that very view."""

    def __getitem__(self, cell: tuple[int, int]) -> tuple[Tensor, int, int]:
        item, view = cell
        random = np.random.default_rng([SEED, item, view])  # the same whenever it is drawn
        pixels = IMAGES[item].float() / 255
        pixels = (pixels * random.uniform(0.6, 1.4) + random.uniform(-0.2, 0.2)).clamp(0, 1)
        if random.random() < 0.5:
            pixels = pixels.flip(-1)
        x, y = random.integers(0, SIZE - 3, 2)
        pixels[:, y : y + 3, x : x + 3] = 0.5
        return pixels, item, view


if __name__ == "__main__":
    torch.manual_seed(0)
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    nn.init.normal_(teacher[1].weight, std=0.3)
    with softpack.create(path, codec="quantize", bits=6, items=ITEMS, views=VIEWS, classes=CLASSES) as writer:
        for view in range(VIEWS):
            cells = [[(item, view) for item in range(ITEMS)]]
            for pixels, items, views in DataLoader(Augmented(), batch_sampler=cells):
                writer.append(teacher(pixels).detach(), item=items, view=views)

    labels = softpack.open(path).load()  # packed; device="cuda" decodes there
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    sampler = softpack.ViewSampler(labels, batch_size=32)
    for epoch in range(4 * VIEWS):
        for pixels, items, views in DataLoader(Augmented(), batch_sampler=sampler):
            temperature = softpack.losses.temperature(
                epoch, start=20, factor=0.7, every=6
            )  # as LPQLD lowers it
            loss = softpack.losses.kl(student(pixels), labels.read(items, views), temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % VIEWS == 0:
            print(f"epoch {epoch}: KL of the last batch at T={temperature:.1f} is {loss.item():.4f}")
