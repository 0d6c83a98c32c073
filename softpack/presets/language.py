"""Caches of what a language model says of each token: top-k with ids, and draws. Tokens themselves are not counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softpack.accounting import Entry
from softpack.presets.budget import BYTES, Parts, Preset, Published
from softpack.presets.settings import Setting

TOKENS = Setting("tokens", "labels, one for each token that is predicted", 10**9)
VOCABULARY = Setting("vocabulary", "tokens that there are", 262_144, least=2)
MOST_OF_17_BITS = 1 << 17
FLOATS = {"fp16": 2, "bf16": 2, "fp32": 4}
# DistillKit's configurations: k, exact values and their bytes, and coefficients of 4 bytes.
CONFIGS = {"recommended": (128, 16, 2, 6), "budget": (50, 1, 2, 3), "quick-start": (128, 32, 4, 3)}
LEGACY = "legacy"
LEGACY_K, LEGACY_EXACT, LEGACY_TERMS, WORD_BITS = 128, 32, 9, 64


def _id_bits(values: Mapping[str, Any]) -> int:
    return max(1, int(values["vocabulary"] - 1).bit_length())


def _parts(values: Mapping[str, Any], *of_a_token: tuple[str, int]) -> Parts:
    """Return what a label takes, by bits of each part of it, for all tokens."""
    n = values["tokens"]
    return Parts(tuple(Entry(what, bits * n, "codes") for what, bits in of_a_token), n, n)


def _distillkit(values: Mapping[str, Any]) -> Parts:
    bits = _id_bits(values)
    if values["config"] == LEGACY:
        n_words = -(-LEGACY_K // (WORD_BITS // bits))
        return _parts(
            values,
            (f"exact values, {LEGACY_EXACT} x fp32", 32 * LEGACY_EXACT),
            (f"coefficients, {LEGACY_TERMS} x fp32", 32 * LEGACY_TERMS),
            (f"ids, {bits} bits each in words of {WORD_BITS}", WORD_BITS * n_words),
        )
    k, n_exact, n_bytes, n_terms = CONFIGS[values["config"]]
    return _parts(
        values,
        (f"exact values, {n_exact} x {n_bytes} bytes", 8 * n_exact * n_bytes),
        (f"coefficients, {n_terms} x fp32", 32 * n_terms),
        (f"ids, {k} x {bits} bits", 8 * -(-k * bits // 8)),
    )


def _megatron(values: Mapping[str, Any]) -> Parts:
    k, number = values["k"], FLOATS[values["dtype"]]
    return _parts(
        values,
        (f"log-probabilities, {values['dtype']}", 8 * k * number),
        ("lower halves of ids, uint16", 16 * k),
        ("17th bits of ids, a byte each", 8 * k),
    )


def _maxtext(values: Mapping[str, Any]) -> Parts:
    """Ids are varints of 7 bits a byte: those below 128 take one, and so on; all tokens count alike."""
    n, k, vocabulary = values["tokens"], values["k"], values["vocabulary"]
    n_bytes = sum(max(0, vocabulary - least) for least in (0, 1 << 7, 1 << 14, 1 << 21))
    entries = (
        Entry("logits, fp32", 32 * k * n, "codes"),
        Entry("ids, as varints, were all alike", 8 * n_bytes * k * n // vocabulary, "codes"),
    )
    return Parts(entries, n, n)


def _rs_kd(values: Mapping[str, Any]) -> Parts:
    return _parts(
        values, ("ids, 17 bits", 17 * values["drawn"]), ("shares of the draws, 7 bits", 7 * values["drawn"])
    )


def _se_kd3x(values: Mapping[str, Any]) -> Parts:
    slots = values["slots"]
    return _parts(
        values, ("ids, 17 bits", 17 * slots), ("shares of the draws, 7 bits", 7 * slots), ("entropy, a byte", 8)
    )


OF_17_BITS = Setting(VOCABULARY.name, VOCABULARY.about, MOST_OF_17_BITS, least=2, most=MOST_OF_17_BITS)
PRESETS = (
    Preset(
        "distillkit",
        "DistillKit: top-k of a language model, some values exact and a polynomial of the rank for others",
        "code of arcee-ai/DistillKit; by formula: a label's bytes, without tokens and what Parquet adds or packs",
        (
            TOKENS,
            VOCABULARY,
            Setting("config", "of its README", "recommended", choices=(*CONFIGS, LEGACY)),
        ),
        _distillkit,
        (
            Published(
                "labels",
                "README of arcee-ai/DistillKit",
                "114",
                BYTES,
                {"tokens": "1", "vocabulary": "50257", "config": "budget"},
                remark="a token, which holds of a vocabulary of 16 bits alone",
            ),
            Published(
                "labels",
                "README of arcee-ai/DistillKit",
                remark="about 300 bytes a token, 0.15% of all logits (recommended)",
            ),
        ),
        views="",
    ),
    Preset(
        "megatron",
        "Megatron-LM: top-k log-probabilities of a language model of 131,072 tokens at most",
        "code of NVIDIA/Megatron-LM, megatron/training/distillation; by formula: tensors before zstd packs them",
        (
            TOKENS,
            OF_17_BITS,
            Setting("k", "tokens of a label", 128),
            Setting("dtype", "of a log-probability", "fp16", choices=tuple(FLOATS)),
        ),
        _megatron,
        views="",
    ),
    Preset(
        "maxtext",
        "MaxText: top-k logits of a language model, a tf.Example a sequence",
        "code of AI-Hypercomputer/maxtext, save_top_k_teacher_logits.py; by formula: numbers alone, before ArrayRecord",
        (TOKENS, VOCABULARY, Setting("k", "tokens of a label", 128)),
        _maxtext,
        views="",
    ),
    Preset(
        "rs-kd",
        "RS-KD: tokens drawn by their probability, with the shares of the draws",
        "arXiv 2503.16870; by formula, as what is public of it has it: 17 bits of an id and 7 of a share",
        (TOKENS, OF_17_BITS, Setting("drawn", "different tokens of a label", 12)),
        _rs_kd,
        (Published("labels", "README of akhilkedia/RandomSamplingKD", remark="12 tokens a label"),),
        views="",
    ),
    Preset(
        "se-kd3x",
        "SE-KD3X: slots of drawn tokens, and a byte of entropy",
        "code of almogtavor/SE-KD3x; by formula: slots, without what torch.save adds to each sequence",
        (TOKENS, OF_17_BITS, Setting("slots", "of drawn tokens, filled or not", 64)),
        _se_kd3x,
        (
            Published(
                "labels",
                "README of almogtavor/SE-KD3x",
                "37",
                BYTES,
                {"tokens": "1", "slots": "12"},
                remark="a position",
            ),
            Published(
                "labels", "README of almogtavor/SE-KD3x", remark="0.04% of the storage, with selected positions"
            ),
        ),
        views="",
    ),
)
