"""The two networks: which tensors they have, and what they compute.

Shapes: B rows, C classes, S slots, K codewords a slot, D numbers a codeword, L = S * D, H hidden units.
The same functions serve the training and the finished codec.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Tensors = Mapping[str, Tensor]
Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def decoder_layout(classes: int, slots: int, k: int, d_c: int, d_h: int) -> Layout:
    """Return dtype and shape of every tensor that decoding needs."""
    latent = slots * d_c
    return _fp16({
        "codebooks": (slots, k, d_c),
        "hidden_weight": (latent, d_h),
        "hidden_bias": (d_h,),
        "out_weight": (latent + d_h, classes),
        "out_bias": (classes,),
    })  # fmt: skip


def encoder_layout(classes: int, slots: int, k: int, d_c: int, d_h: int) -> Layout:
    """Return dtype and shape of every tensor that only encoding needs."""
    latent = slots * d_c
    return _fp16({
        "encoder_codebooks": (slots, k, d_c),
        "encoder_weight": (classes, latent + d_h),
        "encoder_bias": (latent + d_h,),
        "encoder_hidden_weight": (d_h, latent),
    })  # fmt: skip


def _fp16(shapes: dict[str, tuple[int, ...]]) -> Layout:
    return {name: (torch.float16, shape) for name, shape in shapes.items()}


def latents(nets: Tensors, centred_BC: Tensor) -> Tensor:
    """Return the encoder's latents [B, L] of logits whose rows have mean zero."""
    hidden = nets["encoder_hidden_weight"].shape[0]
    both_BX = torch.addmm(nets["encoder_bias"], centred_BC, nets["encoder_weight"])
    linear_BL, hidden_BH = both_BX[:, :-hidden], both_BX[:, -hidden:]
    return torch.addmm(linear_BL, torch.relu(hidden_BH), nets["encoder_hidden_weight"])


def by_slot(latents_BL: Tensor, slots: int) -> Tensor:
    """Return latents [B, L] as [S, B, D]."""
    return latents_BL.view(len(latents_BL), slots, latents_BL.shape[1] // slots).transpose(0, 1)


def codewords(codebooks_SKD: Tensor, index_BS: Tensor) -> Tensor:
    """Return the codewords of int64 indices, one after the other: [B, L]."""
    slots, k, _ = codebooks_SKD.shape
    flat_BS = index_BS + torch.arange(0, slots * k, k, device=index_BS.device)
    return F.embedding(flat_BS, codebooks_SKD.flatten(0, 1)).flatten(1)


def decoded(nets: Tensors, latents_BL: Tensor) -> Tensor:
    """Return the decoder's rows [B, C] of latents, by its last layer [L + H + 1, C], whose last row is the bias.

    In one product: to add the bias afterwards would be another pass over the rows, which are by far the largest.
    """
    hidden_BH = torch.relu(torch.addmm(nets["hidden_bias"], latents_BL, nets["hidden_weight"]))
    ones_B1 = latents_BL.new_ones(len(latents_BL), 1)
    return torch.cat([latents_BL, hidden_BH, ones_B1], 1) @ nets["last_layer"]


def working(tensors: Tensors) -> dict[str, Tensor]:
    """Return stored tensors as float32, with the last layer in one piece."""
    nets = {name: tensor.float() for name, tensor in tensors.items()}
    nets["last_layer"] = torch.cat([nets.pop("out_weight"), nets.pop("out_bias").unsqueeze(0)])
    return nets


def stored(nets: Tensors) -> dict[str, Tensor]:
    """Return float32 tensors as they are stored: float16, with weights and bias of the last layer apart."""
    weight_XC, bias_C = nets["last_layer"][:-1], nets["last_layer"][-1]
    others = {name: tensor for name, tensor in nets.items() if name != "last_layer"}
    return {
        name: tensor.half() for name, tensor in {**others, "out_weight": weight_XC, "out_bias": bias_C}.items()
    }
