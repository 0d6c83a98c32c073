"""Add epochs to a file later, lose its end, get back all that was whole, and label again what was not."""

import tempfile
from pathlib import Path

import torch

import softpack

EPOCHS, CLASSES = 8, 50
ITEMS = torch.arange(300)
TEACHER = 3 * torch.randn(len(ITEMS), CLASSES, generator=torch.Generator().manual_seed(0))


def label(writer, epoch: int, items_B: torch.Tensor) -> None:
    """Append the labels of some items in an epoch."""
    views_NC = TEACHER + torch.randn(TEACHER.shape, generator=torch.Generator().manual_seed(epoch))
    writer.append(views_NC[items_B], item=items_B, view=epoch)


def main() -> None:
    """Write 4 epochs, append 4, damage the end, recover."""
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    # appendable=True keeps the encoder in the file, for codecs that have one apart from the decoder.
    with softpack.create(path, codec="lowrank", rank=8, classes=CLASSES, appendable=True) as writer:
        for epoch in range(4):
            label(writer, epoch, ITEMS)
    with softpack.append(path) as writer:
        for epoch in range(4, EPOCHS):
            label(writer, epoch, ITEMS)
    print("appended:", softpack.open(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])  # the disk was full, the machine went down
    try:
        softpack.open(path)
    except softpack.errors.TruncatedError as error:
        print("refused:", error)
    found = softpack.recover(path)
    print(f"recovered: {found.n_rows} labels; {found.dropped_bytes} bytes could not be used")

    labels = softpack.open(path)
    with softpack.append(path) as writer:
        for epoch in range(EPOCHS):
            is_there_N = torch.from_numpy(labels.has(ITEMS, torch.full_like(ITEMS, epoch)))
            label(writer, epoch, ITEMS[~is_there_N])
    print("labelled again:", softpack.open(path), "sound:", not softpack.verify(path).problems)


if __name__ == "__main__":
    main()
