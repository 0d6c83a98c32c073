"""The presets that there are, by name."""

from __future__ import annotations

from difflib import get_close_matches

from softpack.errors import DataError
from softpack.presets import cached, language, lighter, pickled, pictures
from softpack.presets.budget import Budget, Preset
from softpack.presets.settings import Values, split

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for module in (pickled, lighter, cached, pictures, language)
    for preset in module.PRESETS
}


def budget(spec: str, taken: Values | None = None) -> Budget:
    """Return the bit budget of a published method.

        softpack.budget("lpld:ipc=50,prune=40").label_bytes

    Args:
        spec: name of a preset, or "NAME:KEY=VALUE,..."; what is not given is as published for ImageNet-1K at
            10 images a class, where the method has that.
        taken: settings that hold where `spec` gives none, such as those of a file.

    Raises:
        DataError: there is no such preset or setting, or a value is missing or out of range.
    """
    name, given = split(spec)
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(f"there is no preset {name!r}{hint}; there are {', '.join(PRESETS)}")
    return PRESETS[name].budget(given, taken)
