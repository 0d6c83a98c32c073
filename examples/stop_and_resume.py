"""Stop a student at any step and go on, with other workers: its weights end as if it had never stopped."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import softpack

ITEMS, VIEWS, CLASSES, SIZE = 96, 4, 10, 8
IMAGES = np.random.default_rng(1).integers(0, 256, (ITEMS, SIZE, SIZE, 3), np.uint8)


def label(path: Path) -> None:
    """Write labels that a teacher would give, flipped in half of the views."""
    random = np.random.default_rng(0)
    with softpack.create(path, codec="raw", items=ITEMS, views=VIEWS, classes=CLASSES) as writer:
        for view in range(VIEWS):
            logits_BC = random.normal(size=(ITEMS, CLASSES)).astype(np.float32)
            writer.append(logits_BC, item=np.arange(ITEMS), view=view, flip=random.random(ITEMS) < 0.5)


def train(path: Path, workers: int, steps: int, checkpoint: dict | None = None) -> dict:
    """Train for some steps, from a checkpoint if there is one; return a checkpoint."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    dataset = softpack.SoftLabelDataset(IMAGES, path, transform=softpack.replay(SIZE))
    loader = softpack.Loader(dataset, softpack.ViewSampler(dataset.labels, 16, seed=7), num_workers=workers)
    parts = {"student": student, "optimizer": optimizer, "loader": loader}
    for name, state in (checkpoint or {}).items():
        parts[name].load_state_dict(state)
    while True:
        for pixels, labels in loader:
            loss = softpack.losses.kl(student(pixels), labels, temperature=4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps -= 1
            if not steps:
                return {name: part.state_dict() for name, part in parts.items()}


if __name__ == "__main__":
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    label(path)
    straight = train(path, workers=0, steps=20)
    stopped = train(path, workers=2, steps=9)
    print(
        f"stopped in epoch {stopped['loader']['epoch']} after {stopped['loader']['position']} of {ITEMS} samples"
    )
    resumed = train(path, workers=0, steps=11, checkpoint=stopped)
    same = all(torch.equal(straight["student"][name], resumed["student"][name]) for name in straight["student"])
    print(f"weights are the same as without the stop: {same}")
