"""softpack: soft labels 30 to 200 times smaller than fp16, in one checked file that trains a student.

    with softpack.create("labels.spk", codec="vqae", items=N, views=V, classes=C) as writer:
        writer.append(logits_BC, item=items_B, view=views_B)
    labels = softpack.open("labels.spk")
    labels.read(items, views)                                # float32 [B, C]
    dataset = softpack.SoftLabelDataset(images, "labels.spk", transform=softpack.replay(224))
    print(softpack.ledger("labels.spk"))                     # every bit of the file

Names are looked up when they are used, so that `import softpack` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "ImageFolder": "softpack.folder",
    "LabelCollator": "softpack.data.collator",
    "Loader": "softpack.data.loader",
    "Recipe": "softpack.recipe",
    "SoftLabelDataset": "softpack.data.dataset",
    "ViewSampler": "softpack.data.sampler",
    "append": "softpack.container.create",
    "capture": "softpack.capturing.capture",
    "budget": "softpack.presets.registry",
    "check": "softpack.relabelling.check",
    "check_capture": "softpack.capturing.check",
    "create": "softpack.container.create",
    "fidelity": "softpack.eval.fidelity",
    "ledger": "softpack.container.ledger",
    "load_model": "softpack.container.create",
    "open": "softpack.container.reader",
    "recover": "softpack.container.recover",
    "relabel": "softpack.relabelling.relabel",
    "replay": "softpack.data.replay",
    "save_model": "softpack.container.create",
    "verify": "softpack.container.verify",
}
_MODULES = ("losses",)
__all__ = ["__version__", *sorted([*_PUBLIC, *_MODULES])]

if TYPE_CHECKING:
    from softpack import losses as losses
    from softpack.capturing.capture import capture as capture
    from softpack.capturing.check import check_capture as check_capture
    from softpack.container.create import append as append
    from softpack.container.create import create as create
    from softpack.container.create import load_model as load_model
    from softpack.container.create import save_model as save_model
    from softpack.container.ledger import ledger as ledger
    from softpack.container.reader import open as open  # noqa: A004
    from softpack.container.recover import recover as recover
    from softpack.container.verify import verify as verify
    from softpack.data.collator import LabelCollator as LabelCollator
    from softpack.data.dataset import SoftLabelDataset as SoftLabelDataset
    from softpack.data.loader import Loader as Loader
    from softpack.data.replay import replay as replay
    from softpack.data.sampler import ViewSampler as ViewSampler
    from softpack.eval.fidelity import fidelity as fidelity
    from softpack.folder import ImageFolder as ImageFolder
    from softpack.presets.registry import budget as budget
    from softpack.recipe import Recipe as Recipe
    from softpack.relabelling.check import check as check
    from softpack.relabelling.relabel import relabel as relabel


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"softpack.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'softpack' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
