"""How many images are loaded for a mixed sample: in a shuffled order, and where mix partners are kept together.

Of the set whose rows are all CutMix, with partners drawn within batches of 100 as SRe2L does. A batch loads each image
once that it shows in whole or in part. Counted, not timed: the same everywhere.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import Results, options

import softpack
from softpack.sources.encoding import encode_source, fit_model
from softpack.sources.opening import open_source

BATCHES = (16, 64, 256)
EPOCHS = 5


def main() -> None:
    """Count and write the table."""
    given = options("mixed_loads", __doc__ or "")
    results, source = Results(given), open_source(given.lite0.with_name("imagenet_lite0_cutmix.npz"))
    with tempfile.TemporaryDirectory() as folder:
        spk = Path(folder) / "a.spk"
        encode_source(source, spk, fit_model(source, "quantize", {"bits": 1}))
        labels = softpack.open(spk)
        for batch_size in BATCHES:
            for keep_mixed in (False, True):
                sampler = softpack.ViewSampler(labels, batch_size, seed=given.seed, keep_mixed=keep_mixed)
                loads = samples = 0
                for _ in range(1 if given.quick else EPOCHS):
                    for batch in sampler:
                        items, views = zip(*batch, strict=True)
                        partners = labels.replay(items, views)["mix_item"].tolist()
                        loads += len({*items, *partners} - {-1})
                        samples += len(batch)
                results.add(
                    batch_size=batch_size,
                    keep_mixed="yes" if keep_mixed else "no",
                    images_a_sample=loads / samples,
                )


if __name__ == "__main__":
    main()
