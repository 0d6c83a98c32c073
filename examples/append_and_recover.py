"""Add epochs to a file later, lose its end, and get back all that was whole."""

import tempfile
from pathlib import Path

import torch

import softpack

ITEMS, CLASSES = 300, 50
TEACHER = torch.randn(ITEMS, CLASSES, generator=torch.Generator().manual_seed(0))


def label_epochs(writer, epochs: range) -> None:
    """Append the labels of some epochs, one view each."""
    for epoch in epochs:
        random = torch.Generator().manual_seed(epoch)
        logits_NC = 3 * TEACHER + torch.randn(ITEMS, CLASSES, generator=random)
        writer.append(logits_NC, item=torch.arange(ITEMS), view=epoch)


def main() -> None:
    """Write 4 epochs, append 4, damage the end, recover, and label again what was lost."""
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    # appendable=True keeps the encoder in the file, for codecs that have one apart from the decoder.
    with softpack.create(path, codec="lowrank", rank=8, classes=CLASSES, appendable=True) as writer:
        label_epochs(writer, range(4))
    with softpack.append(path) as writer:
        label_epochs(writer, range(4, 8))
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
    items = torch.arange(ITEMS)
    lost = [epoch for epoch in range(8) if not labels.has(items, torch.full((ITEMS,), epoch)).all()]
    with softpack.append(path) as writer:
        label_epochs(writer, range(lost[0], 8))
    print("labelled again:", softpack.open(path))
    print("sound:", not softpack.verify(path).problems)


if __name__ == "__main__":
    main()
