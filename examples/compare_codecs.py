"""Put one source through several codecs, and print what each costs and what it loses."""

import tempfile
from pathlib import Path

import numpy as np

import softpack
from softpack.sources import open_source
from softpack.sources.encoding import encode_source, fit_model

CODECS = [
    ("raw", {"dtype": "fp16"}),
    ("quantize", {"bits": 8}),
    ("quantize", {"bits": 3}),
    ("topk", {"k": 10}),
    ("topk", {"k": 10, "tail": "bucket", "tail_temperature": 20.0}),
    ("lowrank", {"rank": 16, "bits": 6}),
    ("vqae", {"slots": 8, "steps": 100}),
]


def make_source(path: Path) -> None:
    """Write logits as an .npz: 150 items, 8 views that resemble each other, 100 classes in groups."""
    random = np.random.default_rng(0)
    groups_GC = random.normal(size=(12, 100))
    item_NG = 2 * random.normal(size=(150, 1, 12)) + 0.7 * random.normal(size=(150, 8, 12))
    logits_NVC = item_NG @ groups_GC + 0.3 * random.normal(size=(150, 8, 100))
    np.savez(path, logits=logits_NVC.astype(np.float16))


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    make_source(folder / "logits.npz")
    source = open_source(folder / "logits.npz")
    print(f"{'codec':<52}{'bits/label':>11}{'all-in':>8}{'KL T=1':>8}{'KL T=20':>9}{'top-1':>8}")
    for number, (codec_id, settings) in enumerate(CODECS):
        path = folder / f"{number}.spk"
        encode_source(source, path, fit_model(source, codec_id, settings))
        account, found = (
            softpack.ledger(path),
            softpack.fidelity(path, folder / "logits.npz", temperatures=(1, 20)),
        )
        kl = [divergence.kl_mean for divergence in found.temperatures.values()]
        name = " ".join([codec_id, *(f"{key}={value}" for key, value in settings.items())])
        print(f"{name:<52}{account.marginal_bits_per_label:>11.0f}{account.all_in_bits_per_label:>8.0f}"
              f"{kl[0]:>8.3f}{kl[1]:>9.3f}{found.top1_agreement:>8.1%}")  # fmt: skip
