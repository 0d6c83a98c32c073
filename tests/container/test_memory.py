from __future__ import annotations

import subprocess
import sys

import pytest

# What rows take at once is bounded: by these, and by tiles.
CHILD = """
import resource, sys, numpy as np, softpack
from softpack.container import tile_cache, tile_writer
tile_writer.PENDING_BYTES = tile_cache.CACHE_BYTES = tile_writer.COMMIT_BYTES = 1 << 18
path, items = sys.argv[1], int(sys.argv[2])
random = np.random.default_rng(0)
with softpack.create(path, "raw", classes=64, views=10) as writer:
    for start in range(0, items, 100):
        rows = random.standard_normal((1000, 64)).astype(np.float32)
        item, view = np.divmod(np.arange(1000), 10)
        writer.append(rows, item=start + item, view=view, flip=view % 2, crop_xywh_fraction=rows[:, :4])
labels = softpack.open(path)
for block in labels.blocks(1000):
    assert block.labels_BC.shape == (1000, 64)
assert softpack.verify(path).problems == ()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", CHILD, tmp_path / f"{items}.spk", str(items)]))
        for items in (200, 6_000)
    ]

    assert (tmp_path / "6000.spk").stat().st_size > 6 << 20
    assert peaks[1] - peaks[0] < 4 << 10, "KiB"
