"""Train a VQ autoencoder of rows for KL.

Two phases. First all is trained together: gradients pass the quantiser straight through (van den Oord,
Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning", 2017) and codebooks follow the latents as
moving averages, with dead codewords moved to latents of the batch. Then the encoder stands still, every row
keeps its codes, and the decoder with its own copy of the codebooks is trained by exact gradients; where codes are
searched for, this is done twice, since a better decoder finds better codes.

Steps take turns in how many stages they use, so that the decoder serves each number of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from softpack.codecs.abc import Progress
from softpack.codecs.vqae import nets, search, start

START_ROWS = 8192  # that k-means sees
START_ITERATIONS = 8
MAX_BATCH_ENTRIES = 1 << 22  # numbers in a batch: fewer rows when there are very many classes
TOGETHER = 0.6  # share of the steps in the first phase
CODE_ROWS = 4096  # coded at a time between the phases
CODE_ENTRIES = 1 << 24  # numbers in them: fewer rows when there are very many classes
ROUNDS = 2  # of searching codes and training the decoder on them, where codes are searched
AGAIN = 0.6  # learning rate of the second round, relative to the first
WARM_UP = 30  # steps
REVIVED = 0.7  # share of the first phase in which dead codewords move
DEAD = 0.03  # of a codeword's fair share of the rows
KEEP = 0.99  # of a codebook's moving average, a step
COMMITMENT = (
    0.03  # weight of |latents - codewords|^2 / 2C in units of logits, which is the KL it costs at high T
)
ENCODER_RATE = 0.1  # learning rate of the encoder's first layer, relative to its weights
CONTEXT_SCALE = 0.5  # features are below one but for the first, and there are many
DECODER = ("codebooks", "hidden_weight", "hidden_bias", "last_layer", "context_hidden")


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and how.

    Args:
        sizes: of the networks.
        temperatures: that KL * T^2 is averaged over.
        given_at: temperature at which the decoder is to give log-probabilities; 1 for logits.
        steps: of both phases.
        batch: rows a step.
        lr: the highest learning rate.
        n_candidates: that the search for codes tries; 0 for the nearest codewords alone.
        seed: of all that is random.
    """

    sizes: nets.Sizes
    temperatures: tuple[float, ...]
    given_at: float
    steps: int
    batch: int
    lr: float
    n_candidates: int
    seed: int


def train(
    residual_RC: Tensor, context_RC: Tensor | None, plan: Plan, progress: Progress | None = None
) -> dict[str, Tensor]:
    """Return the float16 tensors of decoder and encoder.

    Args:
        residual_RC: float32, logits of mean zero less their context; changed in passing, by rounding errors.
        context_RC: the context; None where there is none.
        plan: what to train.
        progress: is told the steps done and the KL at the first temperature.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in the midst of
        context_RC = None if context_RC is None else _normal(context_RC)
        trainer = _Trainer(_normal(residual_RC), context_RC, plan, progress)
        trainer.train_together()
        trainer.train_decoder()
        return nets.stored(trainer.nets)


def _normal(rows_RC: Tensor) -> Tensor:
    """Return rows that gradients may be taken through, which those made in inference mode are not."""
    return rows_RC.clone() if rows_RC.is_inference() else rows_RC


def begin(
    residual_RC: Tensor, context_RC: Tensor | None, plan: Plan, generator: torch.Generator
) -> tuple[dict[str, Tensor], float]:
    """Return the networks that training starts from, float32, and the logits that one unit of a latent is.

    The linear paths are the principal directions, and the hidden units do not yet count.
    """
    sizes, device = plan.sizes, residual_RC.device
    mean_C = residual_RC.mean(0)
    residual_RC -= mean_C
    directions_CL, variances_L = start.principal_directions(residual_RC, sizes.latent, generator)
    least = 1e-2 + 1e-3 * mean_C.norm()  # keeps the encoder within float16 where rows hardly differ
    spread = (torch.linalg.vector_norm(residual_RC) / residual_RC.numel() ** 0.5).maximum(least)
    directions_CL = directions_CL[:, start.deal_out(variances_L, sizes.slots).to(device)]
    unit = variances_L[0].sqrt().maximum(least)  # latents of order one, whatever the logits
    project_CL = directions_CL / unit
    sample_N = torch.randperm(len(residual_RC), generator=generator)[:START_ROWS].to(device)
    points_SND = nets.by_slot(residual_RC[sample_N] @ project_CL, sizes.slots).contiguous()
    codebooks_NSKD = start.staged_k_means(points_SND, sizes.stages, sizes.k, START_ITERATIONS, generator)
    residual_RC += mean_C

    def random(n_in: int, scale: Tensor | float) -> Tensor:
        return torch.randn(n_in, sizes.d_h, generator=generator).to(device) / (math.sqrt(n_in) * scale)

    unused_HC = torch.zeros(sizes.d_h, sizes.classes, device=device)
    encoder_CY = torch.cat([project_CL, random(sizes.classes, spread)], 1)
    tensors = {
        "codebooks": codebooks_NSKD,
        "hidden_weight": random(sizes.latent, points_SND.square().mean().sqrt().clamp_min(1e-3)),
        "hidden_bias": torch.zeros(sizes.d_h, device=device),
        "last_layer": torch.cat([directions_CL.T * unit, unused_HC, mean_C.unsqueeze(0)]),
        "encoder_codebooks": codebooks_NSKD.clone(),
        "encoder_weight": encoder_CY,
        "encoder_bias": -(mean_C @ encoder_CY),
        "encoder_hidden_weight": torch.zeros(sizes.d_h, sizes.latent, device=device),
    }
    if context_RC is not None:
        tensors["context_weight"] = _context_weight(context_RC[sample_N], sizes.d_x, generator)
        tensors["context_hidden"] = random(sizes.d_x, CONTEXT_SCALE)
        tensors["encoder_context"] = random(sizes.d_x, CONTEXT_SCALE)
    return tensors, float(unit)


def _context_weight(context_RC: Tensor, d_x: int, generator: torch.Generator) -> Tensor:
    """Return the principal directions [C, X] of the context, scaled so that the first feature is of order one."""
    centred_RC = context_RC - context_RC.mean(0)
    directions_CX, variances_X = start.principal_directions(centred_RC, d_x, generator)
    return directions_CX / variances_X[0].sqrt().clamp_min(1e-2)


class _Trainer:
    def __init__(
        self, residual_RC: Tensor, context_RC: Tensor | None, plan: Plan, progress: Progress | None
    ) -> None:
        self.residual_RC, self.context_RC, self.plan, self.progress = residual_RC, context_RC, plan, progress
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.nets, self.unit = begin(residual_RC, context_RC, plan, self.generator)
        self.batch = max(1, min(plan.batch, len(residual_RC), MAX_BATCH_ENTRIES // residual_RC.shape[1]))
        self.done = 0

    def train_together(self) -> None:
        plan, tensors, slots = self.plan, self.nets, self.plan.sizes.slots
        slow = ENCODER_RATE * float(tensors["encoder_weight"][:, : plan.sizes.latent].square().mean().sqrt())
        trained = [name for name in tensors if "codebooks" not in name and name != "context_weight"]
        rates = {name: plan.lr * (slow if name == "encoder_weight" else 1.0) for name in trained}
        commit = COMMITMENT * self.unit**2 / self.residual_RC.shape[1]
        averages = [_Averages(codebooks_SKD, self.batch) for codebooks_SKD in tensors["encoder_codebooks"]]
        steps = math.ceil(plan.steps * TOGETHER)
        for step, index_B in self._steps(rates, steps):
            residual_BC, context_BC = self._rows(index_B)
            latents_BL = nets.latents(tensors, residual_BC, nets.features(tensors, context_BC))
            words_BL, quantised = torch.zeros_like(latents_BL), []
            for stage in averages[: self._stages_at(step)]:
                points_SBD = nets.by_slot(latents_BL.detach() - words_BL, slots)
                index_SB = start.nearest(points_SBD, stage.codebooks_SKD)
                words_BL = words_BL + nets.codewords(stage.codebooks_SKD, index_SB.T)
                quantised.append((stage, points_SBD, index_SB))
            through_BL = latents_BL + (words_BL - latents_BL).detach()
            commitment = commit * (latents_BL - words_BL).square().sum(1).mean() / 2
            decoded_BC = nets.decoded(tensors, through_BL, context_BC)
            gradient_BC = self._gradient(residual_BC, context_BC, decoded_BC.detach())
            torch.autograd.backward([decoded_BC, commitment], [gradient_BC, None])
            for stage, points_SBD, index_SB in quantised:
                stage.add(points_SBD, index_SB)
                if step < REVIVED * steps:
                    stage.revive(points_SBD, self.generator)
        tensors["encoder_codebooks"] = torch.stack([stage.codebooks_SKD for stage in averages])

    def train_decoder(self) -> None:
        tensors, plan = self.nets, self.plan
        tensors["codebooks"] = tensors["encoder_codebooks"].clone()
        rounds = ROUNDS if plan.n_candidates else 1
        for round_ in range(rounds):
            self._train_on_codes(self._codes(), (plan.steps - self.done) // (rounds - round_), AGAIN**round_)
        tensors["last_layer"] /= plan.given_at

    def _train_on_codes(self, index_RNS: Tensor, steps: int, slower: float) -> None:
        tensors = self.nets
        rates = {name: self.plan.lr * slower for name in DECODER if name in tensors}
        for step, index_B in self._steps(rates, steps):
            residual_BC, context_BC = self._rows(index_B)
            index_BNS = index_RNS[index_B][:, : self._stages_at(step)].long()
            words_BL = nets.staged_codewords(tensors["codebooks"], index_BNS)
            decoded_BC = nets.decoded(tensors, words_BL, context_BC)
            gradient_BC = self._gradient(residual_BC, context_BC, decoded_BC.detach())
            torch.autograd.backward([decoded_BC], [gradient_BC])

    def _codes(self) -> Tensor:
        """Return the codes of all rows, int32 [R, N, S], as the stored encoder will choose them."""
        encoder = {n: t.half().float() if n not in DECODER else t for n, t in self.nets.items()}
        parts = []
        step = max(1, min(CODE_ROWS, CODE_ENTRIES // self.residual_RC.shape[1]))
        for start_row in range(0, len(self.residual_RC), step):
            index_B = slice(start_row, start_row + step)
            residual_BC, context_BC = self._rows(index_B)
            plan = self.plan
            codes_BNS = encode(
                encoder, residual_BC, context_BC, plan.temperatures, plan.n_candidates, again=False
            )
            parts.append(codes_BNS.int())
        return torch.cat(parts)

    def _rows(self, index_B: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        return self.residual_RC[index_B], None if self.context_RC is None else self.context_RC[index_B]

    def _stages_at(self, step: int) -> int:
        """Return how many stages a step uses: all, then one fewer, and round again."""
        return self.plan.sizes.stages - step % self.plan.sizes.stages

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
        n_rows = len(self.residual_RC)
        while True:
            order_R = torch.randperm(n_rows, generator=self.generator).to(self.residual_RC.device)
            yield from torch.split(order_R[: n_rows // self.batch * self.batch], self.batch)

    def _gradient(self, residual_BC: Tensor, context_BC: Tensor | None, decoded_BC: Tensor) -> Tensor:
        """Return the gradient by the decoded logits of KL(rows || decoded) * T^2, averaged over T and rows."""
        rows_BC = residual_BC if context_BC is None else residual_BC + context_BC
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
        self.progress(self.done + 1, self.plan.steps, f"KL {kl.clamp_min(0):.3f}")


@torch.no_grad()
def encode(
    tensors: nets.Tensors,
    residual_BC: Tensor,
    context_BC: Tensor | None,
    temperatures: tuple[float, ...],
    n_candidates: int = 0,
    again: bool = True,
) -> Tensor:
    """Return the codes of logits of mean zero less their context, int64 [B, N, S].

    Stage by stage the nearest codewords to what is left of the latents or, with candidates, those near them
    whose decoded row has the least loss; with `again` those of rows that are told badly are searched again, among
    more. Decoded rows are taken to be logits.
    """
    stages, slots = tensors["encoder_codebooks"].shape[:2]
    left_BL = nets.latents(tensors, residual_BC, nets.features(tensors, context_BC))
    loss = None
    if n_candidates:
        loss = search.Loss.of(residual_BC if context_BC is None else residual_BC + context_BC, temperatures)
    words_BL, chosen = None, []
    for stage in range(stages):
        points_SBD = nets.by_slot(left_BL, slots)
        index_BS = start.nearest(points_SBD, tensors["encoder_codebooks"][stage]).T
        if loss is not None:
            rows = search.Rows(points_SBD, words_BL, context_BC, loss)
            last = stage == stages - 1  # before it, most rows are told badly
            index_BS = search.refined(tensors, stage, index_BS, rows, n_candidates, again and last)
            found_BL = nets.codewords(tensors["codebooks"][stage], index_BS)
            words_BL = found_BL if words_BL is None else words_BL + found_BL
        if stage + 1 < stages:
            left_BL = left_BL - nets.codewords(tensors["encoder_codebooks"][stage], index_BS)
        chosen.append(index_BS)
    return torch.stack(chosen, 1)


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
