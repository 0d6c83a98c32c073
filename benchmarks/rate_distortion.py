"""Rate over distortion: every codec at several rates on real label sets, as files that are written and read again.

What `softpack bench rd` measures and draws, for each label set in a folder of its own, with how it was made.
"""

from __future__ import annotations

import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from common import facts, options, read_csv, use_threads, write_csv

from softpack.rate.curve import CODECS, Case, measure
from softpack.rate.plot import draw
from softpack.records import TEMPERATURES
from softpack.sources.opening import open_source

SETS = ("imagenet_lite0", "imagenet_lite0_cutmix")
FOLDER = Path(__file__).parent / "rate_distortion"


def main() -> None:
    """Measure and draw."""
    given = options("rate_distortion", __doc__ or "")
    use_threads(given.threads)
    codecs = ("topk", "quantize") if given.quick else CODECS
    for name in SETS:
        source = open_source(given.lite0.with_name(f"{name}.npz"))
        with tempfile.TemporaryDirectory() as nowhere:
            folder = Path(nowhere) if given.quick else FOLDER / name
            say = partial(said, folder / "rd.csv", facts(given))
            curves = measure(source, folder, codecs, TEMPERATURES, given.seed, say=say, refused=refused)
            draw(curves, folder, f"{name}: {source.n_rows:,} rows of {source.spec.classes:,} classes")


def said(table: Path, about: dict[str, str], point: dict[str, Any]) -> None:
    """Print a point, and say in the table how it was made: the run may be stopped before the next."""
    write_csv(table, about, read_csv(table)[1])
    kls = ", ".join(f"{value:.4f}" for column, value in point.items() if re.fullmatch(r"kl_\d+", column))
    print(f"{point['curve']} {point['asked_bits']}: {point['marginal_bits']:.2f} bits, KL {kls}", flush=True)


def refused(case: Case, why: str) -> None:
    """Say what is left out."""
    print(f"{case.curve} {case.asked_bits}: left out: {why}", flush=True)


if __name__ == "__main__":
    main()
