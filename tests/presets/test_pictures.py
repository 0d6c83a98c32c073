"""Images that are stored otherwise than as pixels."""

from __future__ import annotations

import pytest

from softpack.presets.registry import budget


@pytest.mark.parametrize(
    ("spec", "each", "a_class"),  # weights of a network and images a class, as DDiF's code has them
    [
        ("ddif:size=32,ipc=1,width=6,layers=2", 81, 37),
        ("ddif:size=128,ipc=1,width=20,layers=3", 963, 51),
        ("ddif:size=128,ipc=10", 963, 510),
    ],
)
def test_networks_of_ddif(spec, each, a_class):
    one = budget(spec)

    assert one.image_bytes == 4 * 10 * a_class * each
    assert one.parts.n_labels == 10 * a_class
    assert one.label_bits == 64 * 10 * a_class


@pytest.mark.parametrize(
    ("spec", "a_class"), [("fred:size=32,ipc=1,kept=64", 16), ("fred:size=128,ipc=1", 8), ("fred:ipc=10", 80)]
)
def test_frequencies_of_fred(spec, a_class):
    one = budget(spec)
    size, ipc = one.settings["size"], one.settings["ipc"]

    assert one.parts.n_labels == 10 * a_class
    assert one.parts.entries[0].n_bits == 32 * 10 * 3 * ipc * size**2  # all that ipc images have
    assert one.parts.entries[1].n_bits == 10 * size**2


def test_words_of_d3m_do_not_grow_with_images():
    one = budget("d3m:tokens=4")

    assert one.image_bytes == 4 * 4 * 768 * 1000
    assert (one.label_bytes, one.bits_per_label, one.bits_per_view) == (0, None, None)


def test_dq_is_two_shares_of_the_data_set():
    full = budget("dq:fraction=1,drop=0").image_bytes

    assert full == pytest.approx(147_897_477_120, rel=1e-5)
    assert budget("dq").image_bytes == pytest.approx(0.6 * full, rel=1e-9)
    assert budget("dq:fraction=0").image_bytes == 0
