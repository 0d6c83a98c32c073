"""The budget of a published method: the preset, what it stores, and the sizes that its authors published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from softpack.accounting import Entry
from softpack.errors import DataError
from softpack.presets.settings import Setting, Value, Values, resolve

IMAGES = "images"  # the scope of what stands beside the labels
BLOCK = 4096  # bytes that a file system gives at a time
OF_IMAGES = {"classes", "ipc", "items", "size", "picture"}  # settings that images depend on
NOT_OF_LABELS = {"size", "picture"}


@dataclass(frozen=True)
class Unit:
    """What a published size counts in, which its letters do not say."""

    name: str
    n_bytes: int

    def __str__(self) -> str:
        power = (
            "2**30" if self.n_bytes == 1 << 30 else "2**20" if self.n_bytes == 1 << 20 else f"{self.n_bytes:,}"
        )
        return self.name if self.n_bytes == 1 else f"{self.name} (of {power} bytes)"


GIB, MIB, MB, BYTES = Unit("GB", 1 << 30), Unit("MB", 1 << 20), Unit("MB", 10**6), Unit("bytes", 1)


@dataclass(frozen=True)
class Published:
    """A size that somebody published.

    Args:
        what: it is of: labels, images, a part of them.
        source: where.
        number: as written, such as "5.67"; None where only a remark was published.
        unit: that the number counts in.
        at: settings that it is of, where they are not the defaults; None: of the method, whatever its settings.
        scopes: of the entries that it counts; none: all but images.
        on_disk: it counts whole blocks of a disk, as `du` does.
        remark: what was said, or why the formula is off.
    """

    what: str
    source: str
    number: str | None = None
    unit: Unit = GIB
    at: Mapping[str, str] | None = None
    scopes: tuple[str, ...] = ()
    on_disk: bool = False
    remark: str = ""

    @property
    def n_bytes(self) -> int | None:
        """The size."""
        return None if self.number is None else round(float(self.number) * self.unit.n_bytes)

    @property
    def last_digit(self) -> float:
        """Bytes that the last digit written stands for."""
        decimals = len((self.number or "").partition(".")[2])
        return float(self.unit.n_bytes / 10**decimals)

    @property
    def text(self) -> str:
        """The size as written, or the remark."""
        return self.remark if self.number is None else f"{self.number} {self.unit}"


@dataclass(frozen=True)
class Parts:
    """What a method stores.

    Args:
        entries: of images (scope `images`), of labels, and of what stands in their place.
        n_labels: soft labels that are stored.
        n_seen: labels that a student sees: images times epochs.
        files: of labels: how many of how many bytes.
    """

    entries: tuple[Entry, ...]
    n_labels: int
    n_seen: int
    files: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Preset:
    """A published method.

    Args:
        name: as people write it.
        about: what it stores, in a line.
        source: the paper, and what the formula rests on.
        settings: that the budget depends on.
        parts: the formula.
        published: sizes, to hold the formula to.
        views: the setting that says how many views an image has; empty where none does.
    """

    name: str
    about: str
    source: str
    settings: tuple[Setting, ...]
    parts: Callable[[Mapping[str, Any]], Parts]
    published: tuple[Published, ...] = ()
    views: str = "epochs"

    def budget(self, given: Mapping[str, str] | None = None, taken: Values | None = None) -> Budget:
        """Return the budget at settings that are given as texts, or taken from a file.

        Raises:
            DataError: a setting is unknown, out of range, missing, or contradicts another.
        """
        values = resolve(self.name, self.settings, given or {}, taken or {})
        try:
            return Budget(self, values, self.parts(values))
        except DataError as error:
            raise DataError(f"preset {self.name}: {error}") from None


@dataclass(frozen=True)
class Budget:
    """What a method takes at given settings.

    Args:
        preset: the method.
        settings: all of them.
        parts: what is stored.
    """

    preset: Preset
    settings: dict[str, Value]
    parts: Parts = field(repr=False)

    @property
    def image_bytes(self) -> int | None:
        """Bytes of the images; None where they are those of the data set, and not counted."""
        counted = any(entry.scope == IMAGES for entry in self.parts.entries)
        return -(-self.bits_of(IMAGES) // 8) if counted else None

    @property
    def label_bits(self) -> int:
        """Bits of all that is no image."""
        return sum(entry.n_bits for entry in self.parts.entries if entry.scope != IMAGES)

    @property
    def label_bytes(self) -> int:
        """Bytes of all that is no image."""
        return -(-self.label_bits // 8)

    @property
    def total_bytes(self) -> int:
        """Bytes of images and labels."""
        return (self.image_bytes or 0) + self.label_bytes

    @property
    def disk_bytes(self) -> int | None:
        """Bytes of the labels in whole blocks of a disk; None where they are in no files of their own."""
        return sum(n * -(-size // BLOCK) * BLOCK for n, size in self.parts.files) or None

    @property
    def bits_per_label(self) -> float | None:
        """Bits a stored label; None where none is stored."""
        return self.label_bits / self.parts.n_labels if self.parts.n_labels else None

    @property
    def bits_per_view(self) -> float | None:
        """Bits a label that a student sees, one an image and epoch; None where no student is said."""
        return self.label_bits / self.parts.n_seen if self.parts.n_seen else None

    def bits_of(self, *scopes: str) -> int:
        """Sum of the entries of these scopes."""
        return sum(entry.n_bits for entry in self.parts.entries if entry.scope in scopes)

    def bytes_for(self, published: Published) -> int:
        """Return what the formula gives for what was published."""
        if published.on_disk and self.disk_bytes is not None:
            return self.disk_bytes
        return self.bits_of(*published.scopes) // 8 if published.scopes else self.label_bytes

    def published(self) -> list[Published]:
        """Return what was published for these very settings, and what of the method as such."""
        return [one for one in self.preset.published if one.at is None or self._is_at(one)]

    def _is_at(self, published: Published) -> bool:
        there = resolve(self.preset.name, self.preset.settings, published.at or {}, {})
        names = there.keys() & OF_IMAGES if published.scopes == (IMAGES,) else there.keys() - NOT_OF_LABELS
        return all(there[name] == self.settings[name] for name in names)

    def to_json(self) -> dict[str, Any]:
        """Return the budget as one JSON object."""
        return {
            "preset": self.preset.name,
            "about": self.preset.about,
            "source": self.preset.source,
            "settings": plain(self.settings),
            "image_bytes": self.image_bytes,
            "label_bytes": self.label_bytes,
            "total_bytes": self.total_bytes,
            "disk_bytes": self.disk_bytes,
            "labels": self.parts.n_labels,
            "views": self.parts.n_seen,
            "bits_per_label": self.bits_per_label,
            "bits_per_view": self.bits_per_view,
            "published": [self._published_json(one) for one in self.published()],
            "entries": [{"what": e.what, "bits": e.n_bits, "scope": e.scope} for e in self.parts.entries],
        }

    def _published_json(self, one: Published) -> dict[str, Any]:
        said: dict[str, Any] = {"what": one.what, "text": one.text, "source": one.source}
        if one.n_bytes is not None:
            formula = self.bytes_for(one)
            said |= {"bytes": one.n_bytes, "formula_bytes": formula, "off": formula / one.n_bytes - 1}
            if one.remark:
                said["remark"] = one.remark
        return said


def plain(settings: Values) -> dict[str, int | float | str]:
    """Return settings as JSON has them, those that do not apply left out."""
    kept = {name: value for name, value in settings.items() if value is not None}
    return {name: value if isinstance(value, int | str) else float(value) for name, value in kept.items()}
