"""Images in a folder for each class, in the order that label sets of this field have them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from softpack.errors import DataError

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".bmp",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)  # as torchvision has them


class ImageFolder:
    """A map-style dataset of (PIL image, class) from `FOLDER/CLASS/.../IMAGE`.

    Classes are the folders by name, and items the files of each by path, as torchvision's ImageFolder has them: labels
    that are made with one belong to the images of the other.

    Args:
        folder: of the classes.

    Raises:
        DataError: there are none, or they hold no images.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"{folder}: is no folder; expected one with a folder of images for each class")
        self.classes = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir())
        self.samples: list[tuple[str, int]] = []
        for target, name in enumerate(self.classes):
            for where, _, names in sorted(os.walk(self.folder / name, followlinks=True)):
                files = [str(Path(where) / file) for file in sorted(names) if file.lower().endswith(SUFFIXES)]
                self.samples += [(file, target) for file in files]
        if not self.samples:
            raise DataError(
                f"{folder}: holds no images in folders of classes; expected {folder}/CLASS/IMAGE.jpg"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int) -> tuple[Any, int]:
        path, target = self.samples[item]
        try:
            return _opened(path).convert("RGB"), target
        except OSError as error:  # such as one that was cut off
            raise DataError(f"{path}: cannot be read as an image: {error}") from None

    def facts(self, item: int) -> tuple[tuple[int, int], int]:
        """Return height and width of an image and its class, without decoding it."""
        path, target = self.samples[item]
        with _opened(path) as image:
            return (image.height, image.width), target


def _opened(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError  # an image folder is the only thing that needs it

    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from None
