"""Train a student with Lightning, which takes softpack's batches as they are (pip install lightning)."""

import tempfile
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor, nn

import softpack

ITEMS, VIEWS, CLASSES, SIZE = 128, 4, 10, 8
IMAGES = np.random.default_rng(1).integers(0, 256, (ITEMS, SIZE, SIZE, 3), np.uint8)


class Student(lightning.LightningModule):
    """Learns from soft labels at T=4."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        """Return the loss of a batch."""
        pixels, labels = batch
        loss = softpack.losses.kl(self.network(pixels), labels, temperature=4)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    lightning.seed_everything(0, verbose=False)
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    nn.init.normal_(teacher[1].weight, std=0.3)
    softpack.relabel(teacher, IMAGES, VIEWS, softpack.Recipe(size=SIZE, mix="mixup"), path, "quantize", bits=6)
    dataset = softpack.SoftLabelDataset(IMAGES, path, transform=softpack.replay(SIZE))
    sampler = softpack.ViewSampler(dataset.labels, batch_size=32, keep_mixed=True)
    trainer = lightning.Trainer(
        max_epochs=4 * VIEWS, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    student = Student()
    trainer.fit(student, softpack.Loader(dataset, sampler))
    print(
        f"KL at T=4: {student.losses[0]:.2f} at first, {student.losses[-1]:.2f} after {len(student.losses)} steps"
    )
