"""Train a VQ autoencoder of rows for KL.

Two phases. First all is trained together: gradients pass the quantiser straight through (van den Oord,
Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning", 2017) and codebooks follow the latents as
moving averages, with dead codewords moved to latents of the batch. Then the encoder stands still, every row
keeps its codes, and the decoder with its own copy of the codebooks is trained by exact gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from softpack.codecs.abc import Progress
from softpack.codecs.vqae import nets, start

START_ROWS = 8192  # that k-means sees
START_ITERATIONS = 8
MAX_BATCH_ENTRIES = 1 << 22  # numbers in a batch: fewer rows when there are very many classes
TOGETHER = 0.6  # share of the steps in the first phase
WARM_UP = 30  # steps
REVIVED = 0.7  # share of the first phase in which dead codewords move
DEAD = 0.03  # of a codeword's fair share of the rows
KEEP = 0.99  # of a codebook's moving average, a step
COMMITMENT = (
    0.03  # weight of |latents - codewords|^2 / 2C in units of logits, which is the KL it costs at high T
)
ENCODER_RATE = 0.1  # learning rate of the encoder's first layer, relative to its weights
DECODER = ("codebooks", "hidden_weight", "hidden_bias", "last_layer")


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and how.

    Args:
        slots: codes of a row.
        k: codewords of a slot.
        d_c: numbers in a codeword.
        d_h: hidden units.
        temperatures: that KL * T^2 is averaged over.
        given_at: temperature at which the decoder is to give log-probabilities; 1 for logits.
        steps: of both phases.
        batch: rows a step.
        lr: the highest learning rate.
        seed: of all that is random.
    """

    slots: int
    k: int
    d_c: int
    d_h: int
    temperatures: tuple[float, ...]
    given_at: float
    steps: int
    batch: int
    lr: float
    seed: int


def train(rows_RC: Tensor, plan: Plan, progress: Progress | None = None) -> dict[str, Tensor]:
    """Return the float16 tensors of decoder and encoder for logits whose rows have mean zero.

    Args:
        rows_RC: float32; changed in passing, by rounding errors.
        plan: what to train.
        progress: is told the steps done and the KL at the first temperature.
    """
    trainer = _Trainer(rows_RC, plan, progress)
    trainer.train_together()
    trainer.train_decoder()
    trainer.nets["last_layer"] /= plan.given_at
    return nets.stored(trainer.nets)


def begin(rows_RC: Tensor, plan: Plan, generator: torch.Generator) -> tuple[dict[str, Tensor], float]:
    """Return the networks that training starts from, float32, and the logits that one unit of a latent is.

    The linear paths are the principal directions, and the hidden units do not yet count.
    """
    n_classes, latent, device = rows_RC.shape[1], plan.slots * plan.d_c, rows_RC.device
    mean_C = rows_RC.mean(0)
    rows_RC -= mean_C
    directions_CL, variances_L = start.principal_directions(rows_RC, latent, generator)
    least = 1e-2 + 1e-3 * mean_C.norm()  # keeps the encoder within float16 where rows hardly differ
    spread = rows_RC.square().mean().sqrt().maximum(least)
    directions_CL = directions_CL[:, start.deal_out(variances_L, plan.slots).to(device)]
    unit = variances_L[0].sqrt().maximum(least)  # latents of order one, whatever the logits
    project_CL = directions_CL / unit
    sample_N = torch.randperm(len(rows_RC), generator=generator)[:START_ROWS].to(device)
    points_SND = nets.by_slot(rows_RC[sample_N] @ project_CL, plan.slots).contiguous()
    codebooks_SKD = start.k_means(points_SND, plan.k, START_ITERATIONS, generator)
    rows_RC += mean_C

    def random(n_in: int, scale: Tensor) -> Tensor:
        return torch.randn(n_in, plan.d_h, generator=generator).to(device) / (math.sqrt(n_in) * scale)

    unused_HC = torch.zeros(plan.d_h, n_classes, device=device)
    encoder_CX = torch.cat([project_CL, random(n_classes, spread)], 1)
    return {
        "codebooks": codebooks_SKD,
        "hidden_weight": random(latent, points_SND.square().mean().sqrt().clamp_min(1e-3)),
        "hidden_bias": torch.zeros(plan.d_h, device=device),
        "last_layer": torch.cat([directions_CL.T * unit, unused_HC, mean_C.unsqueeze(0)]),
        "encoder_codebooks": codebooks_SKD.clone(),
        "encoder_weight": encoder_CX,
        "encoder_bias": -(mean_C @ encoder_CX),
        "encoder_hidden_weight": torch.zeros(plan.d_h, latent, device=device),
    }, float(unit)


class _Trainer:
    def __init__(self, rows_RC: Tensor, plan: Plan, progress: Progress | None) -> None:
        self.rows_RC, self.plan, self.progress = rows_RC, plan, progress
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.nets, self.unit = begin(rows_RC, plan, self.generator)
        self.batch = max(1, min(plan.batch, len(rows_RC), MAX_BATCH_ENTRIES // rows_RC.shape[1]))
        self.done = 0

    def train_together(self) -> None:
        plan, tensors = self.plan, self.nets
        slow = ENCODER_RATE * float(tensors["encoder_weight"][:, : -plan.d_h].square().mean().sqrt())
        trained = [name for name in tensors if "codebooks" not in name]
        rates = {name: plan.lr * (slow if name == "encoder_weight" else 1.0) for name in trained}
        commit = COMMITMENT * self.unit**2 / self.rows_RC.shape[1]
        averages = _Averages(tensors["encoder_codebooks"], self.batch)
        steps = math.ceil(plan.steps * TOGETHER)
        for step, index_B in self._steps(rates, steps):
            rows_BC = self.rows_RC[index_B]
            latents_BL = nets.latents(tensors, rows_BC)
            points_SBD = nets.by_slot(latents_BL.detach(), plan.slots)
            index_SB = start.nearest(points_SBD, averages.codebooks_SKD)
            words_BL = nets.codewords(averages.codebooks_SKD, index_SB.T)
            through_BL = latents_BL + (words_BL - latents_BL).detach()
            commitment = commit * (latents_BL - words_BL).square().sum(1).mean() / 2
            decoded_BC = nets.decoded(tensors, through_BL)
            gradient_BC = self._gradient(rows_BC, decoded_BC.detach())
            torch.autograd.backward([decoded_BC, commitment], [gradient_BC, None])
            averages.add(points_SBD, index_SB)
            if step < REVIVED * steps:
                averages.revive(points_SBD, self.generator)
        tensors["encoder_codebooks"] = averages.codebooks_SKD

    def train_decoder(self) -> None:
        tensors, plan = self.nets, self.plan
        # The codes are those that the stored encoder will give.
        encoder = {name: tensor.half().float() for name, tensor in tensors.items() if name not in DECODER}
        index_RS = torch.cat(
            [encode(encoder, part, plan.slots) for part in torch.split(self.rows_RC, self.batch)]
        )
        tensors["codebooks"] = encoder["encoder_codebooks"].clone()
        rates = dict.fromkeys(DECODER, plan.lr)
        for _, index_B in self._steps(rates, plan.steps - self.done):
            rows_BC = self.rows_RC[index_B]
            words_BL = nets.codewords(tensors["codebooks"], index_RS[index_B].long())
            decoded_BC = nets.decoded(tensors, words_BL)
            gradient_BC = self._gradient(rows_BC, decoded_BC.detach())
            torch.autograd.backward([decoded_BC], [gradient_BC])

    def _steps(self, rates: dict[str, float], steps: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (step, rows of a batch); after each, follow the gradients of the tensors that have a rate."""
        for name in rates:
            self.nets[name].requires_grad_(True)
        optimizer = torch.optim.Adam(
            [{"params": [self.nets[name]], "lr": rate} for name, rate in rates.items()], betas=(0.9, 0.99)
        )
        highest = [group["lr"] for group in optimizer.param_groups]
        batches = self._batches()
        for step in range(steps):
            factor = 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / WARM_UP)
            for group, rate in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = rate * factor
            yield step, next(batches)
            optimizer.step()
            optimizer.zero_grad()
            self.done += 1
        for name in rates:
            self.nets[name].requires_grad_(False)

    def _batches(self) -> Iterator[Tensor]:
        while True:
            order_R = torch.randperm(len(self.rows_RC), generator=self.generator).to(self.rows_RC.device)
            yield from torch.split(order_R[: len(order_R) // self.batch * self.batch], self.batch)

    def _gradient(self, rows_BC: Tensor, decoded_BC: Tensor) -> Tensor:
        """Return the gradient by the decoded logits of KL(rows || decoded) * T^2, averaged over T and rows."""
        gradient_BC = torch.zeros_like(decoded_BC)
        for temperature in self.plan.temperatures:
            teacher_BC = torch.softmax(rows_BC / temperature, 1)
            student_BC = torch.softmax(decoded_BC / temperature, 1)
            gradient_BC.add_(student_BC.sub_(teacher_BC), alpha=temperature)
        self._report(rows_BC, decoded_BC)
        return gradient_BC.div_(len(rows_BC) * len(self.plan.temperatures))

    def _report(self, rows_BC: Tensor, decoded_BC: Tensor) -> None:
        if self.progress is None or (
            self.done % max(1, self.plan.steps // 100) and self.done + 1 < self.plan.steps
        ):
            return
        temperature = self.plan.temperatures[0]
        teacher_BC = torch.log_softmax(rows_BC / temperature, 1)
        student_BC = torch.log_softmax(decoded_BC / temperature, 1)
        kl = (teacher_BC.exp() * (teacher_BC - student_BC)).sum(1).mean() * temperature**2
        self.progress(self.done + 1, self.plan.steps, f"KL {kl:.3f}")


@torch.no_grad()
def encode(tensors: nets.Tensors, centred_BC: Tensor, slots: int) -> Tensor:
    """Return the nearest codewords of logits whose rows have mean zero, int32 [B, S]."""
    points_SBD = nets.by_slot(nets.latents(tensors, centred_BC), slots)
    return start.nearest(points_SBD, tensors["encoder_codebooks"]).T.int()


class _Averages:
    """Codebooks that follow the latents: moving averages of the points that chose each codeword."""

    def __init__(self, codebooks_SKD: Tensor, batch: int) -> None:
        # Points a step that a codeword would have if all had the same.
        self.fair = batch / codebooks_SKD.shape[1]
        self.counts_SK = torch.full(codebooks_SKD.shape[:2], self.fair, device=codebooks_SKD.device)
        self.sums_SKD = codebooks_SKD * self.fair
        self.codebooks_SKD = codebooks_SKD

    def add(self, points_SBD: Tensor, index_SB: Tensor) -> None:
        counts_SK, sums_SKD = start.sums_of_members(points_SBD, index_SB, self.counts_SK.shape[1])
        self.counts_SK.lerp_(counts_SK, 1 - KEEP)
        self.sums_SKD.lerp_(sums_SKD, 1 - KEEP)
        alive_SK1 = (self.counts_SK > 1e-6 * self.fair).unsqueeze(-1)
        means_SKD = self.sums_SKD / self.counts_SK.clamp_min(1e-30).unsqueeze(-1)
        self.codebooks_SKD = torch.where(alive_SK1, means_SKD, self.codebooks_SKD)

    def revive(self, points_SBD: Tensor, generator: torch.Generator) -> None:
        """Move codewords that hardly any point chooses to points of the batch."""
        dead_SK = self.counts_SK < DEAD * self.fair
        chosen_K = torch.randint(points_SBD.shape[1], dead_SK.shape[1:], generator=generator)
        strays_SKD = points_SBD[:, chosen_K.to(points_SBD.device)]
        self.counts_SK = self.counts_SK.masked_fill(dead_SK, self.fair)
        self.sums_SKD = torch.where(dead_SK.unsqueeze(-1), strays_SKD * self.fair, self.sums_SKD)
        self.codebooks_SKD = torch.where(dead_SK.unsqueeze(-1), strays_SKD, self.codebooks_SKD)
