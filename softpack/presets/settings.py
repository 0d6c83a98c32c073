"""Settings of a preset: what there are, how people write them, and what they may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import TypeAlias

from softpack.errors import DataError

Value: TypeAlias = int | Fraction | str | None
Values: TypeAlias = Mapping[str, Value]
MOST = 10**12  # of any number: a budget stays printable
NUMBER = re.compile(r"[0-9]{1,13}(\.[0-9]{1,9})?")


@dataclass(frozen=True)
class Setting:
    """A number or a word that a budget depends on.

    Args:
        name: as people write it.
        about: what it is.
        default: as published; None where it follows from others, or must be given.
        least: of a number.
        most: of a number.
        whole: a fraction is refused.
        choices: the words it may be; none for a number.
        needed: there is no default, and none is known.
    """

    name: str
    about: str
    default: Value = None
    least: int = 1
    most: int = MOST
    whole: bool = True
    choices: tuple[str, ...] = ()
    needed: bool = False

    @property
    def expected(self) -> str:
        """What it may be, for people."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.least} to {self.most}"

    def read(self, text: str, where: str) -> Value:
        """Return the value that a text says.

        Args:
            text: as given.
            where: the preset, for the message.

        Raises:
            DataError: it says none, or one out of range.
        """
        if text in self.choices:
            return text
        if not self.choices and NUMBER.fullmatch(text):
            number = Fraction(text)
            if self.least <= number <= self.most and (number.denominator == 1 or not self.whole):
                return number.numerator if number.denominator == 1 else number
        raise DataError(
            f"preset {where}: {self.name}={text} ({self.about}): expected {self.expected}; "
            f"write {where}:{self.name}=VALUE"
        )


def split(spec: str) -> tuple[str, dict[str, str]]:
    """Return name and settings of "NAME" or "NAME:KEY=VALUE,...", as texts.

    Raises:
        DataError: it is not written so, or says a setting twice.
    """
    name, colon, rest = spec.strip().partition(":")
    given: dict[str, str] = {}
    for pair in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise DataError(
                f"preset {spec}: found {pair!r}; expected KEY=VALUE, such as {name}:ipc=50,epochs=300"
            )
        if key in given:
            raise DataError(f"preset {spec}: {key} is there twice; give it once")
        given[key] = value
    return name.strip().lower(), given


def resolve(
    where: str, settings: Iterable[Setting], given: Mapping[str, str], taken: Values
) -> dict[str, Value]:
    """Return the value of every setting: what is given, else what a file says, else what was published.

    Images are `items`, or `classes` times `ipc`: whoever gives `ipc` does not mean the items of a file.

    Args:
        where: name of the preset, for messages.
        settings: that there are.
        given: texts by name.
        taken: values by name, of a file; those that are no settings here are left out.

    Raises:
        DataError: a setting is unknown, out of range, or needed and not given; or two contradict each other.
    """
    known = {setting.name: setting for setting in settings}
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise DataError(f"preset {where}: there is no setting {name}{hint}; there are {', '.join(known)}")
    said = {name: known[name].read(text, where) for name, text in given.items()}
    found = {name: value for name, value in taken.items() if name in known}
    if "ipc" in said:
        found.pop("items", None)
    values = {name: setting.default for name, setting in known.items()} | found | said
    for name, setting in known.items():
        if setting.needed and values[name] is None:
            raise DataError(f"preset {where}: needs {name}, {setting.about}; write {where}:{name}=VALUE")
    if {"items", "ipc"} <= known.keys():
        _count(where, values, said)
    return values


def _count(where: str, values: dict[str, Value], said: Values) -> None:
    """Fill in the items, and leave `ipc` out where it is not what they are."""
    classes, ipc, items = (values[name] for name in ("classes", "ipc", "items"))
    assert isinstance(classes, int)
    assert isinstance(ipc, int)
    if items is None:
        values["items"] = classes * ipc
    elif items != classes * ipc:
        if {"items", "ipc"} <= said.keys():
            raise DataError(
                f"preset {where}: items={items}, but classes={classes} times ipc={ipc} are {classes * ipc}; "
                "give items or ipc"
            )
        values["ipc"] = None
