"""Write labels epoch by epoch, as a teacher makes them, and read them by (item, view)."""

import tempfile
from pathlib import Path

import torch

import softpack

ITEMS, VIEWS, CLASSES = 200, 10, 100


def main() -> None:
    """Write, open, read, and account for every bit."""
    path = Path(tempfile.mkdtemp()) / "labels.spk"
    random = torch.Generator().manual_seed(0)
    prototypes_NC = 4 * torch.randn(ITEMS, CLASSES, generator=random)

    with softpack.create(path, codec="lowrank", rank=16, items=ITEMS, views=VIEWS, classes=CLASSES) as writer:
        for epoch in range(VIEWS):
            # Any order and any batch size will do: rows are known by (item, view).
            for items_B in torch.randperm(ITEMS, generator=random).split(64):
                logits_BC = prototypes_NC[items_B] + torch.randn(len(items_B), CLASSES, generator=random)
                flip_B = torch.rand(len(items_B), generator=random) < 0.5
                writer.append(logits_BC, item=items_B, view=epoch, flip=flip_B)

    labels = softpack.open(path)  # reads the header and the index only
    print(labels)
    print("one label", labels[3, 7].shape, "all views of an item", labels[3].shape)
    print("a batch", labels.read([5, 0, 5], [1, 9, 2]).shape, labels.replay([5, 0, 5], [1, 9, 2]))
    resident = labels.load()  # all codes in memory, packed; give device="cuda" to decode there
    print("the same from memory", torch.equal(resident.read([5], [1]), labels.read([5], [1])))
    account = softpack.ledger(path)
    print(
        f"{account.all_in_bits_per_label:.0f} bits a label, {account.ratio_vs(16):.1f} times smaller than fp16"
    )
    for entry in account.entries:
        print(f"  {entry.scope:<9}{entry.n_bits:>9,} bits  {entry.what}")


if __name__ == "__main__":
    main()
