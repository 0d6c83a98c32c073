"""Train in two processes with DistributedDataParallel on the CPU: together they see what one would."""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import softpack

ITEMS, VIEWS, CLASSES, SIZE, EPOCHS = 96, 4, 10, 8, 3
IMAGES = np.random.default_rng(1).integers(0, 256, (ITEMS, SIZE, SIZE, 3), np.uint8)


def label(path: Path) -> None:
    """Write labels that a teacher would give."""
    with softpack.create(path, codec="raw", items=ITEMS, views=VIEWS, classes=CLASSES) as writer:
        logits_BC = np.random.default_rng(0).normal(size=(ITEMS * VIEWS, CLASSES)).astype(np.float32)
        item, view = np.divmod(np.arange(ITEMS * VIEWS), VIEWS)
        writer.append(logits_BC, item=item, view=view, flip=view % 2 == 1)


def train(rank: int, world_size: int, folder: str) -> None:
    """Train on this rank's share; rank 0 keeps the weights."""
    if world_size > 1:
        store = f"file://{folder}/store"
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    torch.manual_seed(0)
    student: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    student = DistributedDataParallel(student) if world_size > 1 else student
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    dataset = softpack.SoftLabelDataset(IMAGES, f"{folder}/labels.spk", transform=softpack.replay(SIZE))
    sampler = softpack.ViewSampler(dataset.labels, batch_size=16 // world_size)  # rank: what torch says
    for _ in range(EPOCHS):
        for pixels, labels in softpack.Loader(dataset, sampler):
            optimizer.zero_grad()
            softpack.losses.kl(student(pixels), labels, temperature=4).backward()
            optimizer.step()
    if rank == 0:
        torch.save([weights.detach() for weights in student.parameters()], f"{folder}/{world_size}.pt")
    if world_size > 1:
        distributed.barrier()  # none leaves while another needs it
        distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = tempfile.mkdtemp()
    label(Path(folder) / "labels.spk")
    train(0, 1, folder)
    multiprocessing.spawn(train, (2, folder), nprocs=2)
    one, two = (torch.load(f"{folder}/{n}.pt") for n in (1, 2))
    apart = max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True))
    print(f"weights of one process and of two differ by {apart:.0e} at most")
