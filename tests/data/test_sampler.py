"""Orders are functions of seed and epoch; ranks share them; what is resumed is what was to come."""

from __future__ import annotations

import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import softpack
from softpack.chance import hashed
from softpack.data import order
from softpack.data.sampler import ViewSampler
from softpack.errors import DataError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class FakeLabels:
    """Of the sampler's labels: which views there are, and who is mixed with whom in each."""

    def __init__(self, items=12, views=4, there=None, partner_NV=None, tile_items=4, fingerprint="a"):
        self.there = np.ones((items, views), bool) if there is None else there
        self.partner_NV = partner_NV
        self.columns = () if partner_NV is None else ("mix_item",)
        self.tile_items, self.fingerprint = tile_items, fingerprint

    def view_counts(self):
        return self.there.sum(1)

    def nth_view(self, items, n):
        return np.argsort(~self.there, 1, kind="stable")[items, n]

    def cells(self, rows):
        return tuple(axis[rows] for axis in np.nonzero(self.there))

    def replay(self, items, views):
        return {"mix_item": self.partner_NV[items, views]}


def epoch_of(sampler):
    return [row for batch in sampler for row in batch]


def items_of(rows):
    return [item for item, _ in rows]


# -- one process -------------------------------------------------------------------------------------------


def test_each_epoch_shows_every_item_once_with_its_next_view():
    sampler = ViewSampler(FakeLabels(), batch_size=5)
    epochs = [epoch_of(sampler) for _ in range(6)]
    assert sampler.epoch == 6
    for number, rows in enumerate(epochs):
        assert sorted(items_of(rows)) == list(range(12))
        assert {view for _, view in rows} == {number % 4}
    assert len({tuple(items_of(rows)) for rows in epochs}) == 6
    assert [len(batch) for batch in sampler] == [5, 5, 2]
    assert len(sampler) == 3


def test_the_order_is_the_same_on_every_machine():
    """Numbers that another implementation of the description would give too: golden."""
    assert hashed(0).tolist() == 16294208416658607535
    assert hashed(1, 2, np.arange(3)).tolist() == [
        16613338946343043936, 937349279089814987, 10071245268460305800
    ]  # fmt: skip
    assert order.shuffled(10, 0, 0).tolist() == [4, 8, 0, 1, 7, 6, 2, 5, 3, 9]
    assert order.shuffled(10, 0, 0, block=3, at_once=2).tolist() == [4, 8, 7, 6, 5, 3, 0, 1, 2, 9]
    assert order.drawn(np.full(5, 4), np.arange(5), 0, 2).tolist() == [1, 3, 3, 2, 1]


def test_another_seed_is_another_order_and_the_same_one_the_same():
    first, again, other = (epoch_of(ViewSampler(FakeLabels(60), 7, seed=s)) for s in (3, 3, 4))
    assert first == again != other


def test_without_shuffling_items_come_as_they_are():
    assert items_of(epoch_of(ViewSampler(FakeLabels(), 5, shuffle=False))) == list(range(12))


def test_views_that_are_missing_are_passed_over():
    there = np.ones((4, 3), bool)
    there[1] = [False, True, False]
    there[2, 0] = False
    sampler = ViewSampler(FakeLabels(there=there), 4, shuffle=False)
    assert [[view for _, view in epoch_of(sampler)] for _ in range(3)] == [
        [0, 1, 1, 0],
        [1, 1, 2, 1],
        [2, 1, 1, 2],
    ]


def test_a_pool_of_views_is_gone_through_again_and_again():
    sampler = ViewSampler(FakeLabels(views=4), 12, views=2)
    assert [{view for _, view in epoch_of(sampler)} for _ in range(5)] == [{0}, {1}, {0}, {1}, {0}]


@given(st.integers(1, 9), st.integers(0, 2**63 - 1), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_views_at_random_show_each_once_before_any_again(views, seed, passes):
    sampler = ViewSampler(FakeLabels(5, views), 5, seed=seed, draw="random")
    shown = [dict(epoch_of(sampler)) for _ in range(passes * views)]
    for item, begin in itertools.product(range(5), range(0, passes * views, views)):
        assert sorted(rows[item] for rows in shown[begin : begin + views]) == list(range(views))


def test_views_at_random_differ_between_items_and_passes():
    sampler = ViewSampler(FakeLabels(50, 8), 50, draw="random", shuffle=False)
    shown = np.array([[view for _, view in epoch_of(sampler)] for _ in range(16)])
    assert len({tuple(column) for column in shown.T}) > 45
    assert (shown[:8] != shown[8:]).any(0).sum() > 45


@given(st.integers(1, 40), st.integers(0, 2**63 - 1), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_a_pool_shows_each_label_once_before_any_again(n_rows, seed, passes):
    there = np.zeros((7, 8), bool)
    there.flat[np.random.default_rng(seed).choice(56, n_rows, replace=False)] = True
    sampler = ViewSampler(FakeLabels(there=there), 3, seed=seed, draw="pool")
    epochs = [epoch_of(sampler) for _ in range(-(-passes * n_rows // 7))]
    assert {len(rows) for rows in epochs} == {7}
    shown = [row for rows in epochs for row in rows][: passes * n_rows]
    everything = sorted(zip(*(axis.tolist() for axis in np.nonzero(there)), strict=True))
    for begin in range(0, passes * n_rows, n_rows):
        assert sorted(shown[begin : begin + n_rows]) == everything


def test_tiles_are_shuffled_and_stay_together():
    rows = items_of(epoch_of(ViewSampler(FakeLabels(40, tile_items=4), 8, tiles=2)))
    windows = [sorted({item // 4 for item in rows[i : i + 8]}) for i in range(0, 40, 8)]
    assert all(len(tiles) == 2 for tiles in windows)
    assert sorted(itertools.chain(*windows)) == list(range(10))
    assert windows != sorted(windows)
    assert any(rows[i : i + 8] != sorted(rows[i : i + 8]) for i in range(0, 40, 8))


# -- ranks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_ranks_share_one_order(world):
    alone = epoch_of(ViewSampler(FakeLabels(), 12))
    batches = [list(ViewSampler(FakeLabels(), 2, rank=rank, world_size=world)) for rank in range(world)]
    assert [row for step in zip(*batches, strict=True) for batch in step for row in batch] == alone
    assert len({tuple(map(len, of_rank)) for of_rank in batches}) == 1


@pytest.mark.parametrize(("uneven", "n_rows"), [("drop", 12), ("repeat", 16)])
def test_items_that_ranks_cannot_share_are_dropped_or_repeated_as_said(uneven, n_rows):
    labels = FakeLabels(13)
    ranks = [ViewSampler(labels, 2, uneven=uneven, rank=rank, world_size=4) for rank in range(4)]
    lost = []
    for _ in range(3):
        of_ranks = [epoch_of(sampler) for sampler in ranks]
        assert {len(rows) for rows in of_ranks} == {n_rows // 4}
        shown = set(itertools.chain(*of_ranks))
        assert len(shown) == min(n_rows, 13)
        lost.append(set(range(13)) - {item for item, _ in shown})
    assert uneven == "repeat" or len(set(map(tuple, lost))) > 1


def test_what_cannot_be_shared_evenly_is_refused_before_the_first_step():
    says = (
        "13 items cannot be shared evenly among 4 ranks; say uneven='drop' to leave 1 of them out of each epoch, or "
        "uneven='repeat' to show 3 of them twice"
    )
    with pytest.raises(DataError, match=says):
        ViewSampler(FakeLabels(13), 2, rank=0, world_size=4)


def test_ranks_are_those_of_torch_distributed(monkeypatch):
    from softpack.data import sampler

    says = {"is_available": True, "is_initialized": True, "get_rank": 1, "get_world_size": 3}
    fake = SimpleNamespace(**{name: lambda value=value: value for name, value in says.items()})
    monkeypatch.setattr(sampler, "distributed", fake)
    assert ViewSampler(FakeLabels(), 2).ranks == sampler.Ranks(1, 3)
    with pytest.raises(DataError, match="rank is 3 of 3; expected 0 to 2"):
        ViewSampler(FakeLabels(), 2, rank=3)


# -- resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", ["epoch", "random"])
@pytest.mark.parametrize("stopped", range(8))
def test_what_is_resumed_is_what_was_to_come(stopped, draw):
    def made(**others):
        return ViewSampler(FakeLabels(), **{"batch_size": 5, "seed": 1, "draw": draw, **others})

    whole = made()
    expected = [batch for _ in range(4) for batch in whole]
    sampler, shown = made(), []
    while len(shown) < stopped:
        for batch in sampler:
            shown.append(batch)
            if len(shown) == stopped:
                break
    state = pickle.loads(pickle.dumps(sampler.state_dict()))
    resumed = made()
    resumed.load_state_dict(state)
    rest = [batch for _ in range(3) for batch in resumed]
    assert (shown + rest)[:9] == expected[:9]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 24))
@settings(max_examples=60, deadline=None)
def test_other_ranks_and_batches_resume_the_same_rows(world, other_world, batch, other_batch, steps):
    labels = FakeLabels(24)
    expected = epoch_of(ViewSampler(labels, 24, seed=5))
    ranks = [ViewSampler(labels, batch, seed=5, rank=r, world_size=world) for r in range(world)]
    shown = list(itertools.islice(zip(*ranks, strict=True), steps))
    states = [sampler.state_dict() for sampler in ranks]
    assert all(state == states[0] for state in states)
    before = [row for step in shown for of_rank in step for row in of_rank]
    if len(before) == 24:
        return
    resumed = [ViewSampler(labels, other_batch, seed=5, uneven="drop", rank=r, world_size=other_world)
               for r in range(other_world)]  # fmt: skip
    for sampler in resumed:
        sampler.load_state_dict(states[0])
    after = [row for step in zip(*resumed, strict=True) for of_rank in step for row in of_rank]
    n_left = 24 - len(before)
    assert before + after == expected[: len(before) + n_left - n_left % other_world]


def test_an_epoch_that_is_left_early_begins_again():
    sampler = ViewSampler(FakeLabels(), 5)
    first = next(iter(sampler))
    assert next(iter(sampler)) == first
    sampler.set_epoch(3)
    assert {view for _, view in next(iter(sampler))} == {3}
    assert sampler.state_dict()["position"] == 5


@pytest.mark.parametrize(
    ("others", "says"),
    [
        (
            {"labels": FakeLabels(fingerprint="b")},
            "other labels: its labels is 'a', here it is 'b'; resume with the labels",
        ),
        ({"labels": FakeLabels(13)}, "other labels: its items is 12, here it is 13"),
        ({"seed": 1}, "other order: its seed is 0, here it is 1; resume with the order that it was saved with"),
        ({"views": 2}, "other order: its views is None, here it is 2"),
        ({"draw": "random"}, "other order: its draw is 'epoch', here it is 'random'"),
    ],
)
def test_a_state_of_other_labels_or_another_order_is_refused(others, says):
    state = ViewSampler(FakeLabels(), 5).state_dict()
    sampler = ViewSampler(**{"labels": FakeLabels(), "batch_size": 5, **others})
    with pytest.raises(DataError, match=says):
        sampler.load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"epoch": 1}, None, [], "x"])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(DataError, match=r"is none of a ViewSampler; give what state_dict\(\) gave"):
        ViewSampler(FakeLabels(), 5).load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value"), [("epoch", -1), ("epoch", 1.5), ("position", "3"), ("position", -2)]
)
def test_a_state_that_cannot_be_is_refused(name, value):
    sampler = ViewSampler(FakeLabels(), 5)
    with pytest.raises(DataError, match="expected whole numbers"):
        sampler.load_state_dict({**sampler.state_dict(), name: value})


# -- items that are mixed ------------------------------------------------------------------------------------


def permutation_views(items, views, seed=0):
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(items) for _ in range(views)], 1)


def loads(batches, partner_NV):
    """Return the images that the batches load, each once a batch."""
    return sum(
        len({i for item, view in batch for i in (item, partner_NV[item, view]) if i >= 0}) for batch in batches
    )


def test_items_that_are_mixed_follow_one_another():
    partner_NV = permutation_views(200, 3)
    labels = FakeLabels(200, 3, partner_NV=partner_NV)
    apart, kept = ViewSampler(labels, 10), ViewSampler(labels, 10, keep_mixed=True)
    for _ in range(3):
        batches = list(kept)
        assert sorted(item for batch in batches for item, _ in batch) == list(range(200))
        assert loads(batches, partner_NV) <= 200 + 2 * len(batches)
        assert loads(list(apart), partner_NV) > 1.8 * 200


@given(st.lists(st.integers(-1, 19), min_size=20, max_size=20))
@settings(max_examples=100, deadline=None)
def test_chains_of_any_partners_lead_from_each_item_to_its_partner(partners):
    partner_N = np.array(partners)
    head_N, place_N = order.chains(partner_N)
    for item, partner in enumerate(partners):
        if place_N[item]:
            assert (head_N[partner], place_N[partner]) == (head_N[item], place_N[item] - 1)
        else:
            assert head_N[item] == item
    rows = order.together(order.shuffled(20, 0, 0), head_N, place_N)
    assert sorted(rows) == list(range(20))
    assert len(list(itertools.groupby(head_N[rows]))) == len(set(head_N.tolist()))


@pytest.mark.parametrize(("settings", "labels", "says"), [
    ({"draw": "random"}, FakeLabels(partner_NV=permutation_views(12, 4)), "but views are drawn at random"),
    ({}, FakeLabels(), "but the labels have no mix_item"),
])  # fmt: skip
def test_keep_mixed_where_it_cannot_be_is_refused(settings, labels, says):
    with pytest.raises(DataError, match=f"keep_mixed needs items of the same view that are mixed, {says}"):
        ViewSampler(labels, 5, keep_mixed=True, **settings)


# -- settings that are none -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected a whole number from 1"),
        ({"views": 0}, "views is 0; expected a whole number from 1"),
        ({"tiles": -1}, "tiles is -1; expected a whole number from 0"),
        ({"draw": "all"}, "draw is 'all'; expected epoch or random or pool"),
        ({"draw": "pool", "views": 2}, "draw='pool' shuffles all labels; leave out views, tiles and shuffle"),
        ({"draw": "pool", "labels": FakeLabels(there=np.zeros((2, 2), bool))}, "item 0 has no view"),
        ({"uneven": "pad"}, "uneven is 'pad'; expected refuse or drop or repeat"),
        ({"labels": FakeLabels(there=np.array([[True], [False]]))}, "item 1 has no view.*draw='pool'"),
        ({"labels": FakeLabels(0)}, "item 0 has no view"),
    ],
)
def test_settings_that_are_none_are_refused(settings, says):
    with pytest.raises(DataError, match=says):
        ViewSampler(**{"labels": FakeLabels(), "batch_size": 5, **settings})


def test_no_epoch_is_negative():
    with pytest.raises(DataError, match="epoch is -1; expected 0 or more"):
        ViewSampler(FakeLabels(), 5).set_epoch(-1)


# -- with files and a DataLoader -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampler") / "labels.spk"
    items, views = np.divmod(np.arange(40 * 3), 3)
    logits_BC = torch.stack([torch.from_numpy(items), torch.from_numpy(views)], 1).float()
    with softpack.create(path, codec="raw", items=40, views=3, classes=2, dtype="fp32") as writer:
        writer.append(logits_BC, item=items, view=views)
    return softpack.SoftLabelDataset(list(range(40)), path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_knows_what_has_come_out_of_it(dataset, workers):
    def made(n):
        return softpack.Loader(dataset, softpack.ViewSampler(dataset.labels, 6, seed=2), num_workers=n)

    def seen(batches):
        return [[tuple(row) for row in label_BC.long().tolist()] for _, label_BC in batches]

    whole = made(0)
    expected = seen([batch for _ in range(3) for batch in whole])
    loader = made(workers)
    list(loader)
    shown = seen(itertools.islice(loader, 3))
    state = loader.state_dict()
    resumed = made(2 - workers)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = seen([batch for _ in range(2) for batch in resumed])
    assert shown + rest == expected[7:]
    assert resumed.state_dict()["epoch"] == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_decodes_what_the_dataset_does_and_workers_hand_over_no_labels(dataset, workers, monkeypatch):
    sampler = softpack.ViewSampler(dataset.labels, 7, seed=4)
    expected = [dataset.__getitems__(batch) for batch in sampler]
    sampler.set_epoch(0)
    handed = []

    def seen(batch):
        handed.append([tuple(sample[-1].shape) for sample in batch])
        return softpack.data.collate(batch)

    loader = softpack.Loader(dataset, sampler, num_workers=workers, collate_fn=seen)
    for batch, (images_B, labels_BC) in zip(expected, loader, strict=True):
        assert images_B.tolist() == [image for image, _ in batch]
        assert torch.equal(labels_BC, batch.labels_BC)
    assert workers or set(itertools.chain(*handed)) == {(2,)}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_a_loader_decodes_on_the_device_that_it_is_told(dataset, device):
    loader = softpack.Loader(dataset, softpack.ViewSampler(dataset.labels, 7), device=device)
    assert {labels_BC.device.type for _, labels_BC in loader} == {torch.device(device).type}


def test_the_state_says_which_labels_it_is_of(dataset, tmp_path):
    labels = dataset.labels
    assert len(labels.fingerprint) == 16
    with softpack.create(tmp_path / "other.spk", codec="raw", items=40, views=3, classes=2) as writer:
        items, views = np.divmod(np.arange(40 * 3), 3)
        writer.append(torch.zeros(120, 2), item=items, view=views)
    other = softpack.open(tmp_path / "other.spk")
    sampler = softpack.ViewSampler(other, 6)
    with pytest.raises(DataError, match="the state is of other labels"):
        sampler.load_state_dict(softpack.ViewSampler(labels, 6).state_dict())


def test_a_sampler_can_go_to_another_process(dataset):
    sampler = softpack.ViewSampler(dataset.labels, 6, seed=3)
    assert list(pickle.loads(pickle.dumps(sampler))) == list(sampler)
