"""Methods that store no labels, or little for each."""

from __future__ import annotations

import pytest

from softpack.presets.registry import budget


def resnet18(classes):
    """Numbers of a ResNet-18: convolutions, and weight, bias, mean and variance of the norms behind them."""
    convolutions = [(3, 64, 7)] + [(64, 64, 3)] * 4
    for channels in (128, 256, 512):
        half = channels // 2
        convolutions += [(half, channels, 3), *[(channels, channels, 3)] * 3, (half, channels, 1)]
    return sum(a * b * size**2 + 4 * b for a, b, size in convolutions) + 512 * classes + classes


def test_rded_is_its_images_and_the_teacher():
    one = budget("rded")

    assert one.label_bytes == 4 * resnet18(1000)
    assert budget("rded:classes=10").label_bytes == 4 * resnet18(10)
    assert budget("rded:teacher=25557032").label_bytes == 4 * 25_557_032
    assert (one.parts.n_labels, one.bits_per_label) == (0, None)
    assert one.bits_per_view == 32 * resnet18(1000) / 3_000_000


def test_hello_is_what_its_authors_say_where_they_say_it():
    of_full = budget("hello:ipc=200").label_bytes / budget("sre2l:ipc=200").label_bytes

    assert f"{100 * of_full:.3f}" == "0.003"
    assert f"{100 * 3_200_000 / (110 << 30):.3f}" == "0.003"


def test_nrr_dd_is_two_of_a_thousand_numbers():
    one, full = budget("nrr-dd:ipc=200"), budget("sre2l:ipc=200")

    assert full.bits_of("codes") / one.label_bits == 500
    assert full.bits_of("codes") // 8 == 120 * 10**9  # the 120 GB that it says it replaces


@pytest.mark.parametrize("ratio", ["30", "7.5"])
def test_score_is_its_ratio(ratio):
    one = budget(f"score:ratio={ratio}")

    assert one.label_bits == pytest.approx(32 * 1000 * 3_000_000 / float(ratio), rel=1e-9)


def test_infer_has_images_that_classes_share():
    one = budget("infer")  # nine images a class and 27 that all share, each class's shown in four ways

    assert one.image_bytes == 16_000 * (9 * 1000 + 27)
    assert one.parts.n_labels == 9 * 4 * 1000
    assert one.label_bits == 32 * 1000 * one.parts.n_labels


def test_pictures_have_a_measured_rate_or_are_said():
    assert budget("rded").image_bytes == 16_000 * 10_000
    assert budget("rded:size=448").image_bytes == 4 * 16_000 * 10_000
    assert budget("rded:size=64").image_bytes == 2_060 * 10_000
    assert budget("rded:size=32").image_bytes == 515 * 10_000
    assert budget("rded:picture=12345").image_bytes == 12_345 * 10_000
