"""A codec of one's own: the likeliest class and its probability. softpack finds it by an entry point."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import softpack
from softpack.codecs.abc import CodeArray, Codec, code_dtype, code_values
from softpack.codecs.spaces import to_logits
from softpack.records import LabelSpec
from softpack.testing import check_codec, random_rows


@dataclass(frozen=True)
class Top1(Codec):
    """Keep the likeliest class and its probability in one of `levels` steps; the others share the rest."""

    codec_id = "top1"
    levels: int = 256
    gives = property(lambda self: LabelSpec(self.spec.classes, "log_probs", self.spec.temperature))
    codes = property(lambda self: (self._array("best", self.spec.classes), self._array("step", self.levels)))

    def encode(self, rows_BC, context_BC=None):  # noqa: D102
        best = (to_logits(rows_BC, self.spec) / self.spec.temperature).softmax(dim=1).max(dim=1)
        codes = {"best": best.indices, "step": (best.values * self.levels).long().clamp(max=self.levels - 1)}
        return {array.name: codes[array.name].to(code_dtype(array.bits)) for array in self.codes}

    def decode(self, codes, context_BC=None):  # noqa: D102
        best_B, step_B = (code_values(codes[array.name], array.bits) for array in self.codes)
        p_B1 = ((step_B + 0.5) / self.levels)[:, None]
        rows_BC = ((1 - p_B1) / (self.spec.classes - 1)).repeat(1, self.spec.classes)
        return rows_BC.scatter(1, best_B[:, None], p_B1).log()

    def _array(self, name, levels):
        return CodeArray(name, (), (levels - 1).bit_length(), levels)


if __name__ == "__main__":
    rows = random_rows(LabelSpec(classes=100), n_rows=500)
    check_codec(Top1(LabelSpec(classes=100)), rows)
    folder = Path(tempfile.mkdtemp())
    (folder / "top1-1.0.dist-info").mkdir()  # what pip does when it installs a package
    (folder / "top1-1.0.dist-info" / "entry_points.txt").write_text("[softpack.codecs]\ntop1 = __main__:Top1\n")
    sys.path.insert(0, str(folder))
    with softpack.create(folder / "labels.spk", codec="top1", levels=16, classes=100) as writer:
        writer.append(rows, item=range(500), view=0)
    labels = softpack.open(folder / "labels.spk")
    print(labels, f"{labels.codec.bits_per_label()} bits a label")
