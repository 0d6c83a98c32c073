"""Take a label set of SRe2L in and train as its script does: python import_sre2l.py [LABELS IMAGES]."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

import softpack

T, BATCH, SIZE = 20.0, 32, 224 if sys.argv[1:] else 16
REPLAY = softpack.replay(SIZE, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def small_set(folder: Path) -> tuple[Path, Path]:
    """Write 64 images of coloured noise, and 24 epochs of labels as SRe2L's relabelling lays them out."""
    generator = torch.Generator().manual_seed(42)
    for item in range(64):
        (folder / "images" / f"{item // 16}").mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 150, (20, 24, 3)) + 100 * torch.eye(4, 3)[item // 16]
        Image.fromarray(pixels.byte().numpy()).save(folder / f"images/{item // 16}/{item:02d}.png")
    for epoch in range(24):
        (folder / "labels" / f"epoch_{epoch}").mkdir(parents=True)
        own = torch.eye(4)[[item // 16 for item in RandomSampler(range(64), generator=generator)]] * 30
        partner = torch.randperm(64)
        mix = [partner, 0.6, [0, 0, SIZE // 2, SIZE // 2], (0.75 * own + 0.25 * own[partner]).half()]
        batch = [torch.tensor([[0.1, 0.25, 0.8, 0.5]]).repeat(64, 1), torch.rand(64) < 0.5, *mix]
        torch.save(batch, folder / "labels" / f"epoch_{epoch}" / "batch_0.tar")
    return folder / "labels", folder / "images"


if __name__ == "__main__":
    torch.manual_seed(0)
    out = Path(tempfile.mkdtemp()) / "labels.spk"
    labels, images = map(Path, sys.argv[1:3]) if sys.argv[1:] else small_set(out.parent)
    how = ["--images", images, "--label-seed=42", "--sampler=new"]  # what the files do not say
    how += ["-o", out, "--codec=quantize"]  # of many labels: --target-bits=64
    subprocess.run([sys.executable, "-m", "softpack", "encode", labels, *how], check=True)
    dataset = softpack.SoftLabelDataset(softpack.ImageFolder(images), out, transform=REPLAY)
    _, epochs, classes = dataset.labels.shape  # their student is torchvision's resnet18
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()
    student = nn.Sequential(*layers, nn.Linear(16 * (SIZE - 2) ** 2, classes))
    biases = {"params": [p for p in student.parameters() if p.ndim == 1], "weight_decay": 0}
    optimizer = torch.optim.AdamW([{"params": [p for p in student.parameters() if p.ndim > 1]}, biases], 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for pixels, _, label in DataLoader(dataset, BATCH, shuffle=True):  # of any size, in any order
            loss = softpack.losses.kl(student(pixels), label, T, squared=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    student.eval()
    right = [student(REPLAY(x)[None]).argmax() == target for x, target in softpack.ImageFolder(images)]
    print(f"KL of the last batch at T=20 is {loss:.4f}; right on {sum(right)} of {len(right)} images")
