"""The two networks: which tensors they have, and what they compute.

Shapes: B rows, C classes, N stages, S slots, K codewords a slot, D numbers a codeword, L = S * D, H hidden units,
X features of the context. The same functions serve the training and the finished codec. Where there is context
the networks work on what the rows have beyond it, and see its features besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Tensors = Mapping[str, Tensor]
Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class Sizes:
    """Of the networks.

    Args:
        classes: C.
        stages: N.
        slots: S.
        k: K.
        d_c: D.
        d_h: H.
        d_x: X; 0 where there is no context.
    """

    classes: int
    stages: int
    slots: int
    k: int
    d_c: int
    d_h: int
    d_x: int

    @property
    def latent(self) -> int:
        """L."""
        return self.slots * self.d_c

    @property
    def codebooks(self) -> tuple[int, ...]:
        """Shape in which codebooks are stored."""
        return (self.stages, self.slots, self.k, self.d_c)[self.stages == 1 :]


def decoder_layout(sizes: Sizes) -> Layout:
    """Return dtype and shape of every tensor that decoding needs."""
    shapes: dict[str, tuple[int, ...]] = {
        "codebooks": sizes.codebooks,
        "hidden_weight": (sizes.latent, sizes.d_h),
        "hidden_bias": (sizes.d_h,),
        "out_weight": (sizes.latent + sizes.d_h, sizes.classes),
        "out_bias": (sizes.classes,),
    }
    if sizes.d_x:
        shapes |= {"context_weight": (sizes.classes, sizes.d_x), "context_hidden": (sizes.d_x, sizes.d_h)}
    return _fp16(shapes)


def encoder_layout(sizes: Sizes) -> Layout:
    """Return dtype and shape of every tensor that only encoding needs."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder_codebooks": sizes.codebooks,
        "encoder_weight": (sizes.classes, sizes.latent + sizes.d_h),
        "encoder_bias": (sizes.latent + sizes.d_h,),
        "encoder_hidden_weight": (sizes.d_h, sizes.latent),
    }
    if sizes.d_x:
        shapes["encoder_context"] = (sizes.d_x, sizes.d_h)
    return _fp16(shapes)


def _fp16(shapes: dict[str, tuple[int, ...]]) -> Layout:
    return {name: (torch.float16, shape) for name, shape in shapes.items()}


def features(nets: Tensors, context_BC: Tensor | None) -> Tensor | None:
    """Return what the networks see of the context, [B, X]; None where there is none."""
    return None if context_BC is None else context_BC @ nets["context_weight"]


def latents(nets: Tensors, residual_BC: Tensor, features_BX: Tensor | None = None) -> Tensor:
    """Return the encoder's latents [B, L] of rows less their context, whose mean is zero."""
    n_hidden = nets["encoder_hidden_weight"].shape[0]
    both_BY = torch.addmm(nets["encoder_bias"], residual_BC, nets["encoder_weight"])
    linear_BL, hidden_BH = both_BY[:, :-n_hidden], both_BY[:, -n_hidden:]
    if features_BX is not None:
        hidden_BH = torch.addmm(hidden_BH, features_BX, nets["encoder_context"])
    return torch.addmm(linear_BL, torch.relu(hidden_BH), nets["encoder_hidden_weight"])


def by_slot(latents_BL: Tensor, slots: int) -> Tensor:
    """Return latents [B, L] as [S, B, D]."""
    return latents_BL.view(len(latents_BL), slots, latents_BL.shape[1] // slots).transpose(0, 1)


def codewords(codebooks_SKD: Tensor, index_BS: Tensor) -> Tensor:
    """Return the codewords of int64 indices, one after the other: [B, L]."""
    slots, k, _ = codebooks_SKD.shape
    flat_BS = index_BS + torch.arange(0, slots * k, k, device=index_BS.device)
    return F.embedding(flat_BS, codebooks_SKD.flatten(0, 1)).flatten(1)


def staged_codewords(codebooks_NSKD: Tensor, index_BNS: Tensor) -> Tensor:
    """Return the sums over the stages of the codewords of int64 indices: [B, L]."""
    words_BL = codewords(codebooks_NSKD[0], index_BNS[:, 0])
    for stage in range(1, index_BNS.shape[1]):
        words_BL = words_BL + codewords(codebooks_NSKD[stage], index_BNS[:, stage])
    return words_BL


def before_hidden(nets: Tensors, latents_BL: Tensor, features_BX: Tensor | None = None) -> Tensor:
    """Return what the decoder's hidden units are given [B, H]."""
    before_BH = torch.addmm(nets["hidden_bias"], latents_BL, nets["hidden_weight"])
    if features_BX is None:
        return before_BH
    return torch.addmm(before_BH, features_BX, nets["context_hidden"])


def units(nets: Tensors, latents_BL: Tensor, features_BX: Tensor | None = None) -> Tensor:
    """Return what the decoder's last layer is given, [B, L + H + 1]: latents, hidden units and a one for the bias."""
    hidden_BH = torch.relu(before_hidden(nets, latents_BL, features_BX))
    return torch.cat([latents_BL, hidden_BH, latents_BL.new_ones(len(latents_BL), 1)], 1)


def decoded(nets: Tensors, latents_BL: Tensor, context_BC: Tensor | None = None) -> Tensor:
    """Return the decoder's rows [B, C] of latents, by its last layer [L + H + 1, C], whose last row is the bias.

    In one product: to add bias or context afterwards would be another pass over the rows, which are by far the
    largest.
    """
    units_BY = units(nets, latents_BL, features(nets, context_BC))
    if context_BC is None:
        return units_BY @ nets["last_layer"]
    return torch.addmm(context_BC, units_BY, nets["last_layer"])


def working(tensors: Tensors) -> dict[str, Tensor]:
    """Return stored tensors as float32, codebooks [N, S, K, D], the last layer in one piece."""
    nets = {name: tensor.float() for name, tensor in tensors.items()}
    nets["last_layer"] = torch.cat([nets.pop("out_weight"), nets.pop("out_bias").unsqueeze(0)])
    for name in ("codebooks", "encoder_codebooks"):
        if name in nets and nets[name].ndim == 3:
            nets[name] = nets[name].unsqueeze(0)
    return nets


def stored(nets: Tensors) -> dict[str, Tensor]:
    """Return float32 tensors as they are stored: float16, with weights and bias of the last layer apart."""
    apart = {name: tensor for name, tensor in nets.items() if name != "last_layer"}
    apart |= {"out_weight": nets["last_layer"][:-1], "out_bias": nets["last_layer"][-1]}
    for name in ("codebooks", "encoder_codebooks"):
        if len(apart[name]) == 1:
            apart[name] = apart[name][0]
    return {name: tensor.half() for name, tensor in apart.items()}
