"""Let a teacher label images straight into a file, with CutMix drawn from a seed, and train a student from it."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import softpack

ITEMS, VIEWS, CLASSES, SIZE, T = 128, 8, 10, 8, 4.0
IMAGES = np.random.default_rng(1).integers(0, 256, (ITEMS, 12, 16, 3), np.uint8)
RECIPE = softpack.Recipe(size=SIZE, scale=(0.5, 1.0), mix="cutmix", seed=3)


def network() -> nn.Module:
    """Return a network of random weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))


if __name__ == "__main__":
    torch.manual_seed(0)
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    teacher = network()
    nn.init.normal_(teacher[1].weight, std=0.5)
    softpack.relabel(teacher, IMAGES, VIEWS, RECIPE, path, codec="quantize", bits=6)
    ledger = softpack.ledger(path)
    replay_bits = ledger.bits_of("replay") / ledger.n_rows
    print(
        f"{ledger.n_rows} labels of {ledger.all_in_bits_per_label:.0f} bits, {replay_bits:.1f} of them for replay"
    )
    found = softpack.check(path, teacher, IMAGES, rows=200)
    print(f"the teacher asked again agrees on {100 * found.labels.top1_agreement:.0f}% of 200 views")

    dataset = softpack.SoftLabelDataset(IMAGES, path, transform=softpack.replay(SIZE))
    sampler = softpack.ViewSampler(dataset.labels, batch_size=32, keep_mixed=True)
    loader = softpack.Loader(dataset, sampler)
    student = network()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for epoch in range(3 * VIEWS):
        for pixels, labels in loader:
            loss = softpack.losses.kl(student(pixels), labels, temperature=T)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % VIEWS == 0:
            print(f"epoch {epoch}: KL of the last batch at T={T:g} is {loss.item():.3f}")
    print(f"in the end: {loss.item():.3f}")
