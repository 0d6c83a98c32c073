from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from softpack.data.replay import Augmentation, Replay, augmentations, replay
from softpack.errors import DataError

BILINEAR = Image.Resampling.BILINEAR


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7 + y / 11), np.cos(x / 5), np.sin(y / 13) * np.cos(x / 17)]
    return np.stack([np.rint(127 + 120 * wave) for wave in waves], -1).astype(np.uint8)


def by_hand(image: Image.Image, box: tuple[int, int, int, int], size: int, flip: bool) -> torch.Tensor:
    resized = image.crop(box).convert("RGB").resize((size, size), BILINEAR)
    if flip:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.tensor(np.asarray(resized).astype(np.float32) / np.float32(255)).permute(2, 0, 1)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 40),
    st.booleans(),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_pil_comes_out_bit_for_bit(height, width, size, flip, data):
    x = data.draw(st.integers(0, width - 1))
    y = data.draw(st.integers(0, height - 1))
    w = data.draw(st.integers(1, width - x))
    h = data.draw(st.integers(1, height - y))
    image = Image.fromarray(noise(height, width))
    pixels = replay(size)(image, Augmentation(crop_xywh=(x, y, w, h), flip=flip))
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert torch.equal(pixels, by_hand(image, (x, y, x + w, y + h), size, flip))


def test_pixels_outside_the_crop_are_not_seen():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:20, 10:20] = 200
    for image in (Image.fromarray(pixels), pixels, torch.from_numpy(pixels).permute(2, 0, 1)):
        out = replay(7)(image, Augmentation(crop_xywh=(10, 10, 10, 10)))
        assert torch.equal(out, torch.full((3, 7, 7), 200 / 255))


@pytest.mark.parametrize("crop", [(0, 0, 90, 70), (3, 5, 80, 21), (40, 2, 11, 60), (1, 1, 32, 32)])
def test_arrays_and_byte_tensors_are_within_one_level_of_pil(crop):
    pixels = smooth(70, 90)
    done = Augmentation(crop_xywh=crop, flip=True)
    expected = replay(32)(Image.fromarray(pixels), done)
    from_array = replay(32)(pixels, done)
    from_tensor = replay(32)(torch.from_numpy(pixels).permute(2, 0, 1), done)
    assert torch.equal(from_array, from_tensor)
    assert ((from_array - expected).abs() * 255).max() < 1.001
    from_floats = replay(32)(torch.from_numpy(pixels).permute(2, 0, 1).double() / 255, done)
    assert from_floats.dtype == torch.float32
    assert ((from_floats - expected).abs() * 255).max() < 1.001


def test_a_crop_of_the_output_size_is_copied():
    pixels = noise(20, 30)
    done = Augmentation(crop_xywh=(7, 4, 8, 8))
    expected = torch.from_numpy(pixels[4:12, 7:15].astype(np.float32) / np.float32(255)).permute(2, 0, 1)
    for image in (Image.fromarray(pixels), pixels, expected.new_tensor(pixels / 255).permute(2, 0, 1)):
        assert torch.equal(replay(8)(image, done), expected)


def test_without_a_crop_the_whole_image_is_resized():
    image = Image.fromarray(noise(20, 30))
    assert torch.equal(replay(9)(image), by_hand(image, (0, 0, 30, 20), 9, False))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb_before_it_is_resized(mode):
    image = Image.fromarray(smooth(24, 31)).convert(mode)
    pixels = replay(10)(image, Augmentation(crop_xywh=(2, 3, 20, 15)))
    assert torch.equal(pixels, by_hand(image, (2, 3, 22, 18), 10, False))


def test_arrays_become_three_channels_as_pil_does():
    grey = smooth(24, 31)[..., 0]
    expected = replay(24)(Image.fromarray(grey).resize((24, 24), BILINEAR))
    for array in (grey, grey[..., None], np.repeat(grey[..., None], 4, 2)):
        pixels = replay(24)(array)
        assert pixels.shape == (3, 24, 24)
        assert ((pixels - expected).abs() * 255).max() < 1.001


def test_tensors_keep_their_channels_and_arrays_may_be_read_only_and_strided():
    assert replay(4)(torch.zeros(9, 9, dtype=torch.uint8)).shape == (1, 4, 4)
    assert replay(4)(torch.zeros(5, 9, 9)).shape == (5, 4, 4)
    pixels = noise(12, 12)
    reversed_rows = pixels[::-1]
    reversed_rows.setflags(write=False)
    assert torch.equal(replay(12)(reversed_rows), replay(12)(pixels).flip(1))


def test_fractions_are_rounded_to_the_nearest_pixel():
    height, width = 375, 500
    image = Image.fromarray(noise(height, width))
    rng = np.random.default_rng(1)
    for dtype in (np.float32, np.float16):
        for _ in range(10):
            x, y = int(rng.integers(0, width - 1)), int(rng.integers(0, height - 1))
            w, h = int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
            fractions = np.array([x / width, y / height, w / width, h / height], dtype).tolist()
            assert torch.equal(
                replay(16)(image, Augmentation(crop_xywh_fraction=fractions)),
                replay(16)(image, Augmentation(crop_xywh=(x, y, w, h))),
            )


def test_fractions_that_round_one_pixel_too_far_end_at_the_edge():
    pixels = noise(5, 5)
    cut = replay(6)(pixels, Augmentation(crop_xywh_fraction=(0.3, 0.3, 0.7, 0.7)))
    assert torch.equal(cut, replay(6)(pixels, Augmentation(crop_xywh=(2, 2, 3, 3))))


def test_pixels_go_before_fractions():
    pixels = noise(10, 10)
    both = Augmentation(crop_xywh=(1, 2, 3, 4), crop_xywh_fraction=(0, 0, 1, 1))
    assert torch.equal(replay(6)(pixels, both), replay(6)(pixels, Augmentation(crop_xywh=(1, 2, 3, 4))))


def test_normalisation_is_that_of_torchvision():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = noise(8, 8)
    expected = replay(8)(pixels).sub(torch.tensor(mean)[:, None, None]).div(torch.tensor(std)[:, None, None])
    assert torch.equal(replay(8, mean, std)(pixels), expected)


def test_cutmix_takes_the_partners_view_at_the_same_place():
    own, partner = Image.fromarray(noise(40, 50, 1)), Image.fromarray(noise(60, 45, 2))
    done = Augmentation((3, 4, 30, 20), None, True, 7, 0.9, (2, 5, 11, 16))
    partner_done = Augmentation((10, 20, 33, 35), None, True, 0, 0.9, (0, 0, 16, 16))
    mixed = replay(16)(own, done, partner, partner_done)
    own_view = by_hand(own, (3, 4, 33, 24), 16, True)
    partner_view = by_hand(partner, (10, 20, 43, 55), 16, True)
    assert torch.equal(mixed[:, 5:16, 2:11], partner_view[:, 5:16, 2:11])
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[5:16, 2:11] = False
    assert torch.equal(mixed[:, outside], own_view[:, outside])


def test_cutmix_does_not_write_into_the_image():
    own, partner = torch.zeros(3, 6, 6), torch.ones(3, 6, 6)
    mixed = replay(6)(own, Augmentation(mix_item=1, mix_box_xyxy=(0, 0, 3, 6)), partner)
    assert mixed.sum() == 3 * 3 * 6
    assert own.sum() == 0
    assert partner.sum() == 3 * 6 * 6


def test_normalisation_does_not_write_into_the_image():
    image = torch.ones(3, 6, 6)
    assert (replay(6, (0.5,) * 3, (0.25,) * 3)(image) == 2).all()
    assert (image == 1).all()


@pytest.mark.parametrize("box", [None, (-1, -1, -1, -1)])
def test_mixup_weighs_both_after_normalisation(box):
    own, partner = noise(9, 9, 1), noise(9, 9, 2)
    transform = replay(9, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    mixed = transform(own, Augmentation(mix_item=3, mix_lam=0.3, mix_box_xyxy=box), partner)
    assert torch.equal(mixed, 0.3 * transform(own) + (1 - 0.3) * transform(partner))


def test_an_empty_box_changes_nothing():
    own, partner = noise(9, 9, 1), noise(9, 9, 2)
    mixed = replay(9)(own, Augmentation(mix_item=3, mix_box_xyxy=(4, 2, 4, 9)), partner)
    assert torch.equal(mixed, replay(9)(own))


def test_augmentations_of_columns():
    columns = {
        "crop_xywh": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int32),
        "flip": np.array([True, False]),
        "mix_item": np.array([-1, 0], np.int32),
        "source_hw": np.zeros((2, 2), np.int32),
    }
    assert augmentations(columns, 2) == [
        Augmentation([1, 2, 3, 4], flip=True),
        Augmentation([5, 6, 7, 8], mix_item=0),
    ]
    assert augmentations({}, 2) == [Augmentation(), Augmentation()]


def test_replay_survives_pickling():
    transform = replay(7, [0.1, 0.2, 0.3], np.array([1.0, 2.0, 3.0]))
    assert pickle.loads(pickle.dumps(transform)) == transform == Replay(7, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ((0,), "size is 0; expected a whole number"),
        ((2.5,), "size is 2.5; expected a whole number"),
        ((8, (0.5,)), "std is missing"),
        ((8, None, (0.5,)), "mean is missing"),
        ((8, (0.5,), (1.0, 1.0)), "mean has 1 numbers and std has 2"),
        ((8, (0.5,), (0.0,)), "std above 0"),
        ((8, (float("nan"),), (1.0,)), "expected finite numbers"),
    ],
)
def test_settings_out_of_range(settings_, message):
    with pytest.raises(DataError, match=message):
        replay(*settings_)


@pytest.mark.parametrize(
    ("done", "message"),
    [
        (Augmentation((5, 0, 6, 10)), r"crop \(x 5, y 0, 6 wide, 10 high\) is not inside the image of 10 x 12"),
        (Augmentation((0, 0, 10, 13)), "is not inside the image"),
        (Augmentation((-1, 0, 4, 4)), "is not inside the image"),
        (Augmentation((1, 1, 0, 4)), "0 wide"),
        (Augmentation(crop_xywh_fraction=(0.5, 0, 0.7, 1)), "is not inside the image"),
        (Augmentation(crop_xywh_fraction=(float("nan"), 0, 1, 1)), "expected fractions from 0 to 1"),
        (Augmentation(mix_item=1, mix_box_xyxy=(0, 0, 9, 8)), "outside the output of 8 x 8 pixels"),
        (Augmentation(mix_item=1, mix_box_xyxy=(-1, 0, 4, 4)), "outside the output"),
        (Augmentation(mix_item=1, mix_box_xyxy=(5, 0, 4, 4)), "outside the output"),
        (Augmentation(mix_item=1), "has no mix_box_xyxy, and mix_lam is None"),
        (Augmentation(mix_item=1, mix_lam=float("nan")), "mix_lam is nan; expected a box, or a mix_lam"),
    ],
)
def test_an_augmentation_that_does_not_fit(done, message):
    with pytest.raises(DataError, match=message):
        replay(8)(noise(12, 10), done, noise(12, 10))


def test_a_mixed_view_needs_its_partner():
    with pytest.raises(DataError, match="mixed with item 5, whose image was not given"):
        replay(8)(noise(9, 9), Augmentation(mix_item=5, mix_lam=0.5))
    with pytest.raises(DataError, match="has 1 channels, its mix partner 3"):
        replay(8)(torch.zeros(1, 9, 9), Augmentation(mix_item=5, mix_lam=0.5), noise(9, 9))


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ("photo.jpg", "str"),
        (np.zeros((4, 4, 3)), r"array of float64 \[4, 4, 3\]"),
        (np.zeros((3, 4, 4), np.uint8)[:, :, :2], r"array of uint8 \[3, 4, 2\]"),
        (torch.zeros(4, 4, dtype=torch.int64), r"tensor of torch.int64 \[4, 4\]"),
        (torch.zeros(1, 3, 4, 4), r"tensor of torch.float32 \[1, 3, 4, 4\]"),
    ],
)
def test_what_is_no_image(image, found):
    with pytest.raises(DataError, match=f"the image is a {found}; expected a PIL image"):
        replay(8)(image)


def test_channels_must_be_those_of_the_mean():
    with pytest.raises(DataError, match="has 1 channels, but replay has a mean and std of 3"):
        replay(8, (0.5,) * 3, (0.5,) * 3)(torch.zeros(1, 9, 9))


def test_strips_are_shuffled_before_the_crop():
    """Rows and columns of a picture that says its places, of every kind, against its strips one by one."""
    height, width = 7, 11
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([30 * y, 20 * x, y + x], -1).astype(np.uint8)
    rows, columns = [slice(4, 7), slice(0, 2), slice(2, 4)], [slice(5, 11), slice(0, 5)]
    expected = np.concatenate([pixels[strip] for strip in rows])
    expected = np.concatenate([expected[:, strip] for strip in columns], 1)
    done = Augmentation(crop_xywh=(1, 2, 5, 5), patch_order=(0x1201, 0x110))
    crop = torch.from_numpy(expected[2:7, 1:6] / np.float32(255)).permute(2, 0, 1)
    for image in (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
        torch.testing.assert_close(replay(5)(image, done), crop)


def test_strips_of_one_axis_alone():
    pixels = np.arange(12, dtype=np.uint8).reshape(4, 3)
    out = replay(3)(torch.from_numpy(pixels), Augmentation(crop_xywh=(0, 0, 3, 3), patch_order=(0x110, 0)))
    torch.testing.assert_close(out[0] * 255, torch.from_numpy(pixels[[2, 3, 0]]).float())


def test_an_order_that_is_none_is_refused():
    with pytest.raises(DataError, match="patch_order is 0x133; expected 0, or a 1 and then each strip once"):
        replay(3)(noise(6, 6), Augmentation(patch_order=(0x133, 0)))


@given(st.integers(1, 50), st.booleans(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_cutout_paints_what_pil_draws(size, as_floats, data):
    """LPLD draws a rectangle on the resized crop, from whole numbers that it stores as shares of the size."""
    image = Image.fromarray(smooth(30, 40))
    y, x = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    high, wide = (data.draw(st.integers(0, size)) for _ in range(2))
    colour = data.draw(st.tuples(*[st.integers(0, 255)] * 3))
    expected = image.resize((size, size), BILINEAR)
    x1, x2 = np.clip([x - wide // 2, x + wide // 2], 0, size).tolist()
    y1, y2 = np.clip([y - high // 2, y + high // 2], 0, size).tolist()
    ImageDraw.Draw(expected).rectangle([x1, y1, x2, y2], fill=colour)
    place = np.array([x / size, y / size, wide / size, high / size, *colour], np.float32)
    given = torch.from_numpy(np.array(image.resize((size, size), BILINEAR))).permute(2, 0, 1) / 255
    out = replay(size)(given if as_floats else image, Augmentation(cutout=place.tolist()))
    torch.testing.assert_close(out * 255, torch.from_numpy(np.array(expected)).permute(2, 0, 1).float())


def test_cutouts_come_before_flips_and_none_is_none():
    cutout = (0.25, 0.5, 0.25, 2.0, 255, 255, 255)
    out = replay(8)(np.zeros((8, 8, 3), np.uint8), Augmentation(flip=True, cutout=cutout))
    assert out[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
    assert not replay(8)(np.zeros((8, 8, 3), np.uint8), Augmentation(cutout=[-1.0] * 7)).any()
    with pytest.raises(
        DataError, match="the image has 4 channels; expected 3, to cut out a rectangle of a colour"
    ):
        replay(8)(torch.zeros(4, 8, 8), Augmentation(cutout=cutout))


def test_seeds_of_other_programs_are_not_replayed():
    with pytest.raises(
        DataError, match=r"views were drawn from seeds \(aug_seed\) by the program .* ignore_replay"
    ):
        augmentations({"aug_seed": np.arange(2)}, 2)
