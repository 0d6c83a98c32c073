"""Image folders have the order that label sets have."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from softpack.errors import DataError
from softpack.folder import ImageFolder


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["b/1.png", "b/10.png", "b/2.PNG", "a/x.jpeg", "a/sub/z.png", "a/sub/y.png"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "jpeg" if name.endswith("jpeg") else "png"
        Image.fromarray(np.full((4 + number, 5, 3), 40 * number, np.uint8)).save(path, kind)
    (tmp_path / "images" / "b" / "notes.txt").write_text("none")
    (tmp_path / "images" / "stray.png").write_bytes(b"")
    return tmp_path / "images"


def test_items_are_in_the_order_of_torchvision(folder):
    """By class, then folder, then name, each in the order of code points; files beside the classes are none."""
    images = ImageFolder(folder)
    names = [path.removeprefix(f"{folder}/") for path, _ in images.samples]
    assert names == ["a/x.jpeg", "a/sub/y.png", "a/sub/z.png", "b/1.png", "b/10.png", "b/2.PNG"]
    assert [target for _, target in images.samples] == [0, 0, 0, 1, 1, 1]
    assert images.classes == ["a", "b"]
    assert len(images) == 6


def test_an_item_is_an_image_and_its_class(folder):
    image, target = ImageFolder(folder)[3]
    assert (image.mode, image.size, target) == ("RGB", (5, 4), 1)
    assert ImageFolder(folder).facts(3) == ((4, 5), 1)


def test_what_is_no_image_is_refused(folder):
    (folder / "a" / "x.jpeg").write_bytes(b"none")
    with pytest.raises(DataError, match=r"x\.jpeg: cannot be read as an image"):
        ImageFolder(folder)[0]


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no images in folders of classes; expected .*/CLASS/IMAGE\.jpg"):
        ImageFolder(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        ImageFolder(tmp_path / "none")
