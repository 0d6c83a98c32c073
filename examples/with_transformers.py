"""Train a student with the Trainer of Hugging Face (pip install transformers accelerate)."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import softpack
from softpack.data import collate

ITEMS, VIEWS, CLASSES, SIZE = 128, 4, 10, 8
IMAGES = np.random.default_rng(1).integers(0, 256, (ITEMS, SIZE, SIZE, 3), np.uint8)


class Student(nn.Module):
    """Gives a loss where there are labels, as Trainer expects of its models."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and logits."""
        logits = self.network(pixel_values)
        return {"loss": softpack.losses.kl(logits, labels, temperature=4), "logits": logits}


def as_inputs(batch: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return a batch by the names of the student's arguments."""
    return dict(zip(("pixel_values", "labels"), collate(batch), strict=True))


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    nn.init.normal_(teacher[1].weight, std=0.3)
    recipe = softpack.Recipe(size=SIZE, mix="cutmix")
    softpack.relabel(teacher, IMAGES, VIEWS, recipe, folder / "labels.spk", "quantize", bits=6)
    dataset = softpack.SoftLabelDataset(IMAGES, folder / "labels.spk", transform=softpack.replay(SIZE))
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=4 * VIEWS, per_device_train_batch_size=32, learning_rate=1e-2,
        logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(Student(), arguments, as_inputs, dataset)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"KL at T=4: {float(losses[0]):.2f} at first, {float(losses[-1]):.2f} after {len(losses)} steps")
