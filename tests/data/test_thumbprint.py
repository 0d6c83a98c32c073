"""Images that were not labelled are told from those that were."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from softpack.data.thumbprint import N_IMAGES, check_images, chosen_items, thumbprint, thumbprints
from softpack.errors import DataError


def photo(seed: int, height: int = 60, width: int = 80) -> Image.Image:
    random = np.random.default_rng(seed)
    fields = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(fields).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file)


def test_a_thumbprint_is_the_brightness_of_16_fields():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:2, :2] = (30, 60, 90)
    pixels[6:, 6:] = 255
    found = np.frombuffer(thumbprint(pixels), np.uint8).reshape(4, 4)
    assert found[0, 0] == pytest.approx(60, abs=25)
    assert found[3, 3] == pytest.approx(255, abs=80)
    assert found[0, 3] == found[3, 0] == 0


def test_all_kinds_of_images_have_about_the_same():
    image = photo(1)
    pixels = np.array(image)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    prints = [np.frombuffer(thumbprint(kind), np.uint8).astype(int)
              for kind in (image, pixels, tensor, tensor / 255)]  # fmt: skip
    assert all(np.abs(other - prints[0]).max() <= 1 for other in prints)


def test_the_same_image_decoded_otherwise_is_taken():
    known = {0: thumbprint(jpeg(photo(1), 95))}
    check_images(lambda item: jpeg(photo(1), 90), known)


@pytest.mark.parametrize("seed", range(2, 12))
def test_another_image_is_refused(seed):
    with pytest.raises(DataError, match="the image of item 7 is not the one that was labelled: its brightness"):
        check_images(lambda item: photo(seed), {7: thumbprint(photo(1))})


def test_a_mirrored_image_is_refused():
    mirrored = photo(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    with pytest.raises(DataError, match="give the images that were labelled"):
        check_images(lambda item: mirrored, {0: thumbprint(photo(1))})


def test_the_items_are_chosen_by_the_seed():
    assert chosen_items(3, 0) == [0, 1, 2]
    assert len(chosen_items(1000, 0)) == N_IMAGES
    assert chosen_items(1000, 0) == chosen_items(1000, 0) != chosen_items(1000, 1)
    found = thumbprints(photo, 100, 5)
    assert list(found) == chosen_items(100, 5)
    assert found[chosen_items(100, 5)[0]] == thumbprint(photo(chosen_items(100, 5)[0]))
