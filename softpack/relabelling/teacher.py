"""The teacher: a module or a committee of them, whose logits are averaged.

Shapes in names: B rows of a batch, C channels of pixels (or classes of logits), H high, W wide.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softpack.errors import DataError


class Teacher:
    """Gives logits of pixels, in eval mode and without gradients.

    Args:
        modules: one, or several whose logits are averaged.
        device: where they work.

    Raises:
        DataError: they are no modules, or none.
    """

    def __init__(self, modules: nn.Module | Sequence[nn.Module], device: torch.device | str = "cpu") -> None:
        is_many = isinstance(modules, Sequence) and not isinstance(modules, (nn.Module, str))
        self.modules: tuple[nn.Module, ...] = tuple(modules) if is_many else (modules,)  # type: ignore[assignment, arg-type]
        if not self.modules or not all(isinstance(module, nn.Module) for module in self.modules):
            kinds = ", ".join(type(module).__name__ for module in self.modules) or "nothing"
            raise DataError(f"the teacher is {kinds}; expected a torch module, or several")
        self.device = torch.device(device)
        for module in self.modules:
            module.to(self.device)

    @contextmanager
    def at_work(self) -> Iterator[Teacher]:
        """Put the modules into eval mode, and back when it is done."""
        with at_work(self.modules):
            yield self

    def __call__(self, pixels_BCHW: Tensor) -> Tensor:
        """Return logits float32 [B, classes] on the device.

        Raises:
            DataError: a module gives no rows of logits, or the committee disagrees on the classes.
        """
        with torch.inference_mode():
            pixels_BCHW = pixels_BCHW.to(self.device, non_blocking=True)
            of_each = [
                _logits(module(pixels_BCHW.to(_dtype_of(module))), len(pixels_BCHW)) for module in self.modules
            ]
        classes = sorted({logits_BC.shape[1] for logits_BC in of_each})
        if len(classes) > 1:
            raise DataError(
                f"the teachers of the committee give {' and '.join(map(str, classes))} classes; expected as many of all"
            )
        return of_each[0] if len(of_each) == 1 else torch.stack(of_each).mean(0)


@contextmanager
def at_work(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put modules into eval mode, and back when it is done."""
    was_training = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in was_training:
            part.training = training


def load_teacher(spelt: str) -> Any:
    """Return what a text such as `my_module:make_teacher` names: a module, or what a function of that name returns.

    The folder that the program runs in is looked through first. This imports and runs the code of that module.

    Raises:
        DataError: there is no such thing.
    """
    found = load_named(spelt)
    if isinstance(found, nn.Module) or not callable(found):
        return found
    return found()


def load_named(spelt: str) -> Any:
    """Return the thing that a text such as `my_module:thing` names.

    Raises:
        DataError: there is no such thing.
    """
    module_name, colon, name = spelt.partition(":")
    if not (module_name and colon and name):
        raise DataError(f"{spelt!r} names nothing; expected MODULE:NAME, such as my_teacher:load")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise DataError(f"{spelt}: {error}; expected a module in this folder, or an installed one") from None
    except AttributeError:
        raise DataError(f"{spelt}: the module {module_name} has no {name}") from None


def _logits(given: Any, n_rows: int) -> Tensor:
    """Return the logits of what a module gave: a tensor, or something that has them."""
    logits_BC = getattr(given, "logits", given)
    if not (isinstance(logits_BC, Tensor) and logits_BC.ndim == 2 and len(logits_BC) == n_rows):
        found = list(logits_BC.shape) if isinstance(logits_BC, Tensor) else type(given).__name__
        raise DataError(f"the teacher gives {found} for {n_rows} images; expected logits [{n_rows}, classes]")
    return logits_BC.to(torch.float32, copy=True)  # a module may use its memory again


def _dtype_of(module: nn.Module) -> torch.dtype:
    """Return the floating-point type that a module works in."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
