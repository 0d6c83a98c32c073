from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset, default_collate

from softpack.data import Augmentation, SoftLabelDataset, collate
from softpack.data.batch import Batch
from softpack.data.replay import replay
from softpack.errors import DataError

# Python 3.12 and later warn of every fork of a process that has threads, as torch's does.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

N_ITEMS, N_VIEWS, CLASSES, SIZE = 6, 3, 5, 8
SOURCE_HW = [(20 + item, 30 - item) for item in range(N_ITEMS)]


class FakeLabels:
    """Labels whose first two numbers are the item and the view; rows where `there` is False are missing."""

    def __init__(self, columns=None, item_columns=None, there=None, shape=(N_ITEMS, N_VIEWS, CLASSES)):
        self.shape = shape
        self._columns = columns or {}
        self._item_columns = item_columns or {}
        self.there = np.ones(shape[:2], bool) if there is None else there
        self.columns = tuple(self._columns)
        self.item_columns = tuple(self._item_columns)
        self.recipe, self.images = None, {}
        self.reads = []
        self.is_loaded = False

    def has(self, items, views):
        return self.there[items, views]

    def view_counts(self):
        return self.there.sum(1)

    def nth_view(self, items, n):
        return np.argsort(~self.there, 1, kind="stable")[items, n]

    def read(self, items, views):
        self.reads.append(len(items))
        if not self.there[items, views].all():
            raise DataError("no such row")
        labels_BC = torch.zeros(len(items), self.shape[2])
        labels_BC[:, 0] = torch.from_numpy(items)
        labels_BC[:, 1] = torch.from_numpy(views)
        return labels_BC

    def replay(self, items, views):
        return {name: values[items, views] for name, values in self._columns.items()}

    def item_column(self, name):
        return self._item_columns[name]

    def load(self):
        loaded = copy.copy(self)
        loaded.is_loaded = True
        return loaded


class Images:
    """PIL images of different sizes that count how often each is loaded."""

    def __init__(self, with_target=False):
        self.with_target = with_target
        self.loads = []

    def __len__(self):
        return N_ITEMS

    def __getitem__(self, item):
        self.loads.append(item)
        pixels = np.random.default_rng(item).integers(0, 256, (*SOURCE_HW[item], 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        return (image, 100 + item) if self.with_target else image


class Numbers:
    """Image i is the number i."""

    def __init__(self, n=N_ITEMS):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, item):
        return item


def ragged():
    there = np.ones((N_ITEMS, N_VIEWS), bool)
    there[1] = [False, True, False]
    there[4] = [True, False, True]
    return there


def augmented(mix="cutmix"):
    """Return every replay column; view 0 of each item is not mixed, the others with the next item."""
    rng = np.random.default_rng(5)
    x, y, w, h = (
        rng.integers(low, high, (N_ITEMS, N_VIEWS)) for low, high in ((0, 9), (0, 9), (3, 12), (3, 12))
    )
    mix_item = np.repeat(((np.arange(N_ITEMS) + 1) % N_ITEMS)[:, None], N_VIEWS, 1).astype(np.int32)
    mix_item[:, 0] = -1
    columns = {
        "crop_xywh": np.stack([x, y, w, h], -1).astype(np.int32),
        "flip": rng.random((N_ITEMS, N_VIEWS)) < 0.5,
        "mix_item": mix_item,
    }
    if mix == "cutmix":
        corner = rng.integers(0, 4, (N_ITEMS, N_VIEWS, 2))
        box = np.concatenate([corner, corner + rng.integers(1, 5, corner.shape)], -1)
        columns["mix_box_xyxy"] = np.where(mix_item[..., None] < 0, -1, box).astype(np.int32)
    else:
        columns["mix_lam"] = np.full((N_ITEMS, N_VIEWS), 0.25, np.float32)
    return columns


def expected_pixels(columns, item, view):
    def done(of):
        return Augmentation(**{name: values[of, view].tolist() for name, values in columns.items()})

    images, own = Images(), done(item)
    if own.mix_item < 0:
        return replay(SIZE)(images[item], own)
    return replay(SIZE)(images[item], own, images[own.mix_item], done(own.mix_item))


def rows_of(loader):
    """Return the (item, view) of every label that a loader gives, in its order."""
    return [tuple(row) for *_, labels in loader for row in labels[:, :2].int().tolist()]


# -- pixels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_every_view_has_its_own_pixels_and_label(mix):
    columns = augmented(mix)
    dataset = SoftLabelDataset(Images(), FakeLabels(columns), transform=replay(SIZE))
    for item in range(N_ITEMS):
        for view in range(N_VIEWS):
            pixels, label = dataset[item, view]
            assert torch.equal(pixels, expected_pixels(columns, item, view))
            assert label[:2].tolist() == [item, view]


def test_the_box_holds_the_partners_unmixed_pixels_of_the_same_view():
    columns = augmented()
    dataset = SoftLabelDataset(Images(), FakeLabels(columns), transform=replay(SIZE))
    x1, y1, x2, y2 = columns["mix_box_xyxy"][2, 1]
    pixels, _ = dataset[2, 1]
    partner_done = Augmentation(columns["crop_xywh"][3, 1].tolist(), flip=bool(columns["flip"][3, 1]))
    partner = replay(SIZE)(Images()[3], partner_done)
    assert torch.equal(pixels[:, y1:y2, x1:x2], partner[:, y1:y2, x1:x2])


def test_a_batch_loads_every_image_once_and_decodes_once():
    labels, images = FakeLabels(augmented()), Images()
    dataset = SoftLabelDataset(images, labels, transform=replay(SIZE))
    dataset.set_epoch(1)
    dataset.__getitems__([0, 1, 2, 1])
    assert sorted(images.loads) == [0, 1, 2, 3]
    assert labels.reads == [4]


def test_images_are_let_go_after_their_last_use():
    from softpack.data.inputs import _Samples

    samples = _Samples(Images(), [0, 1, 1])
    samples.take(0)
    assert not samples.held
    first = samples.take(1)
    assert samples.take(1) is first
    assert not samples.held


def test_source_sizes_are_checked_and_named():
    source_hw = np.array(SOURCE_HW, np.int32)
    labels = FakeLabels(augmented(), {"source_hw": source_hw})
    dataset = SoftLabelDataset(Images(), labels, transform=replay(SIZE))
    dataset[0, 1]
    source_hw = source_hw.copy()
    source_hw[1] = (7, 9)
    dataset = SoftLabelDataset(Images(), FakeLabels(augmented(), {"source_hw": source_hw}), replay(SIZE))
    with pytest.raises(
        DataError, match="item 1, view 0: the image of item 1 is 29 x 21 pixels, expected 9 x 7"
    ):
        dataset[1, 0]
    with pytest.raises(DataError, match="item 0, view 2: the image of item 1 is"):
        dataset[0, 2]


def test_source_sizes_are_checked_without_crops_too():
    labels = FakeLabels(None, {"source_hw": np.ones((N_ITEMS, 2), np.int32)})
    with pytest.raises(
        DataError, match="item 3, view 0: the image of item 3 is 27 x 23 pixels, expected 1 x 1"
    ):
        SoftLabelDataset(Images(), labels, transform=replay(SIZE))[3]


def test_a_box_outside_the_output_names_item_and_view():
    columns = augmented()
    columns["mix_box_xyxy"][4, 2] = (0, 0, SIZE + 1, 3)
    dataset = SoftLabelDataset(Images(), FakeLabels(columns), transform=replay(SIZE))
    with pytest.raises(DataError, match=r"item 4, view 2: mix_box_xyxy is \(0, 0, 9, 3\), outside the output"):
        dataset[4, 2]


def test_a_partner_without_that_view_is_named():
    there = np.ones((N_ITEMS, N_VIEWS), bool)
    there[3, 2] = False
    dataset = SoftLabelDataset(Images(), FakeLabels(augmented(), there=there), transform=replay(SIZE))
    dataset[2, 1]
    with pytest.raises(DataError, match="item 2, view 2: it is mixed with item 3, whose view of that number"):
        dataset[2, 2]
    columns = augmented()
    columns["mix_item"][0, 1] = N_ITEMS
    dataset = SoftLabelDataset(Images(), FakeLabels(columns), transform=replay(SIZE))
    with pytest.raises(DataError, match="item 0, view 1: it is mixed with item 6"):
        dataset[0, 1]


# -- samples --------------------------------------------------------------------------------------------


def test_targets_of_the_images_go_before_those_of_the_file():
    target = {"target": np.array([3, -1, 4, 1, 5, 9], np.int32)}
    image, from_file, label = SoftLabelDataset(Numbers(), FakeLabels(None, target))[1]
    assert (image, from_file, label.shape) == (1, -1, (CLASSES,))
    _, from_images, _ = SoftLabelDataset(Images(with_target=True), FakeLabels(None, target))[1]
    assert from_images == 101
    assert len(SoftLabelDataset(Numbers(), FakeLabels())[1]) == 2


def test_mixed_samples_keep_the_images_own_target():
    dataset = SoftLabelDataset(Images(with_target=True), FakeLabels(augmented()), transform=replay(SIZE))
    pixels, target, label = dataset[5, 1]
    assert target == 105
    assert torch.equal(pixels, expected_pixels(augmented(), 5, 1))
    assert label[:2].tolist() == [5, 1]


def test_unaugmented_labels_take_any_transform():
    assert SoftLabelDataset(Numbers(), FakeLabels(), transform=lambda image: -image)[4][0] == -4
    assert SoftLabelDataset(TensorDataset(torch.arange(N_ITEMS)), FakeLabels())[4][0] == 4


def test_an_image_dataset_that_gives_too_much():
    images = TensorDataset(*[torch.arange(N_ITEMS)] * 3)
    with pytest.raises(DataError, match=r"gave 3 values for item 2; expected an image, or \(image, target\)"):
        SoftLabelDataset(images, FakeLabels())[2]


# -- which view -----------------------------------------------------------------------------------------


def test_every_draw_gives_the_next_view_and_wraps_round():
    dataset = SoftLabelDataset(Numbers(), FakeLabels())
    assert [int(dataset[2][1][1]) for _ in range(5)] == [0, 1, 2, 0, 1]
    assert int(dataset[3][1][1]) == 0


def test_ragged_items_walk_over_the_views_that_they_have():
    dataset = SoftLabelDataset(Numbers(), FakeLabels(there=ragged()))
    assert [int(dataset[4][1][1]) for _ in range(4)] == [0, 2, 0, 2]
    assert [int(dataset[1][1][1]) for _ in range(3)] == [1, 1, 1]
    dataset.set_epoch(3)
    assert [int(dataset[item][1][1]) for item in (0, 1, 4)] == [0, 1, 2]


def test_an_item_twice_in_a_batch_gives_two_views():
    dataset = SoftLabelDataset(Numbers(), FakeLabels())
    batch = dataset.__getitems__([5, 2, 5, 5, 5])
    assert batch.labels_BC[:, :2].tolist() == [[5, 0], [2, 0], [5, 1], [5, 2], [5, 0]]
    assert int(dataset[5][1][1]) == 1


def test_pairs_give_that_view_and_move_nothing():
    dataset = SoftLabelDataset(Numbers(), FakeLabels())
    assert dataset[2, 2][1][:2].tolist() == [2, 2]
    loader = DataLoader(dataset, batch_size=2, sampler=[(1, 2), (0, 1), (5, 0)])
    assert rows_of(loader) == [(1, 2), (0, 1), (5, 0)]
    assert dataset[2][1][:2].tolist() == [2, 0]


def test_set_epoch():
    dataset = SoftLabelDataset(Numbers(), FakeLabels())
    dataset.set_epoch(7)
    assert [int(dataset[2][1][1]) for _ in range(2)] == [1, 2]
    with pytest.raises(DataError, match="epoch is -1; expected 0 or more"):
        dataset.set_epoch(-1)


def test_loops_and_negative_items_work_as_in_a_list():
    dataset = SoftLabelDataset(Numbers(), FakeLabels())
    assert [sample[0] for sample in dataset] == list(range(N_ITEMS))
    assert dataset[-1][0] == N_ITEMS - 1
    assert dataset[torch.tensor(3)][0] == dataset[np.int32(3)][0] == 3
    assert dataset.__getitems__([]) == []


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([N_ITEMS], "there is no item 6; the dataset has 6 items"),
        ([-N_ITEMS - 1], "there is no item -7"),
        ([(0, N_VIEWS)], "there is no view 3; expected 0 to 2"),
        ([(0, -1)], "there is no view -1"),
        ([0, (0, 1)], r"asked for \[0, \(0, 1\)\]; expected items, or \(item, view\) pairs"),
        ([0.5], r"asked for \[0.5\]; expected"),
        ([(0, 1, 2)], "expected items, or"),
        (["a"], "expected items, or"),
    ],
)
def test_indices_that_are_none(indices, message):
    with pytest.raises(DataError, match=message):
        SoftLabelDataset(Numbers(), FakeLabels()).__getitems__(indices)


def test_a_pair_that_is_missing():
    with pytest.raises(DataError, match="no such row"):
        SoftLabelDataset(Numbers(), FakeLabels(there=ragged()))[1, 0]


# -- loaders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("there", [None, ragged()], ids=["dense", "ragged"])
def test_epochs_walk_through_the_views_with_workers(persistent, there):
    labels = FakeLabels(there=there)
    dataset = SoftLabelDataset(Numbers(), labels)
    loader = DataLoader(dataset, 4, shuffle=True, num_workers=2, persistent_workers=persistent)
    for epoch in [0, 1, 2, 3]:
        items = np.arange(N_ITEMS)
        views = labels.nth_view(items, epoch % labels.view_counts())
        assert sorted(rows_of(loader)) == list(zip(items.tolist(), views.tolist(), strict=True))
    dataset.set_epoch(2)
    assert {view for item, view in rows_of(loader) if item != 1} == {2} | ({0} if there is not None else set())


def test_pixels_and_labels_stay_together_through_shuffling_and_workers():
    columns = augmented()
    dataset = SoftLabelDataset(Images(with_target=True), FakeLabels(columns), transform=replay(SIZE))
    loader = DataLoader(dataset, 4, shuffle=True, num_workers=2)
    n_seen = 0
    for _ in range(2):
        for pixels_B, target_B, labels_BC in loader:
            assert (labels_BC[:, 0] + 100 == target_B).all()
            for pixels, (item, view) in zip(pixels_B, labels_BC[:, :2].int().tolist(), strict=True):
                assert torch.equal(pixels, expected_pixels(columns, item, view))
                n_seen += 1
    assert n_seen == 2 * N_ITEMS


def test_spawned_workers_share_the_counts(monkeypatch):
    # A spawned worker imports this module by its name.
    monkeypatch.syspath_prepend(str(Path(__file__).parents[__name__.count(".")]))
    dataset = SoftLabelDataset(Images(), FakeLabels(augmented(), there=None), transform=replay(SIZE))
    loader = DataLoader(dataset, 4, num_workers=1, multiprocessing_context="spawn")
    assert rows_of(loader) == [(item, 0) for item in range(N_ITEMS)]
    assert dataset[0][1][:2].tolist() == [0, 1]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
def test_copies_count_for_themselves_and_share_with_their_own_workers(duplicate):
    original = SoftLabelDataset(Numbers(), FakeLabels())
    dataset = duplicate(original)
    list(DataLoader(dataset, 4, num_workers=1))
    assert int(dataset[0][1][1]) == 1
    assert int(original[0][1][1]) == 0


def test_subsets_draw_whole_batches():
    labels = FakeLabels()
    subset = Subset(SoftLabelDataset(Numbers(), labels), [5, 1, 3])
    assert rows_of(DataLoader(subset, 3)) == [(5, 0), (1, 0), (3, 0)]
    assert labels.reads == [3]


@pytest.mark.parametrize("workers", [0, 1])
def test_collate_gives_what_the_default_gives(workers):
    target = {"target": np.arange(N_ITEMS, dtype=np.int32)}
    by_default = list(DataLoader(SoftLabelDataset(Numbers(), FakeLabels(None, target)), 4))
    loader = DataLoader(
        SoftLabelDataset(Numbers(), FakeLabels(None, target)), 4, num_workers=workers, collate_fn=collate
    )
    for mine, default in zip(loader, by_default, strict=True):
        assert type(mine) is type(default)
        assert all(torch.equal(a, b) for a, b in zip(mine, default, strict=True))


def test_collate_does_not_copy_labels_and_takes_any_batch():
    batch = SoftLabelDataset(Numbers(), FakeLabels()).__getitems__([1, 2])
    assert collate(batch)[1] is batch.labels_BC
    batch.pop()
    assert collate(batch)[1].tolist() == default_collate(list(batch))[1].tolist()
    assert torch.equal(collate([(torch.zeros(2), 1)])[1], torch.tensor([1]))


# -- refusals -------------------------------------------------------------------------------------------


def test_as_many_images_as_items():
    with pytest.raises(DataError, match="there are 5 images, but labels of 6 items"):
        SoftLabelDataset(Numbers(5), FakeLabels())
    with pytest.raises(DataError, match="images is a generator; expected a map-style dataset"):
        SoftLabelDataset((number for number in range(6)), FakeLabels())


def test_an_item_without_views():
    there = ragged()
    there[[2, 4]] = False
    dataset = SoftLabelDataset(Numbers(), FakeLabels(there=there))
    with pytest.raises(DataError, match=r"2 of 6 items have no view, the first of them item 2.*draw='pool'"):
        dataset[
            0
        ]  # which has views, and draws none: half of an epoch would be lost with the first of the others
    assert dataset[0, 0][0] == 0


@pytest.mark.parametrize(
    ("transform", "name"), [(None, "no transform was given"), (abs, "<built-in function abs> does not redo")]
)
def test_augmented_labels_need_replay(transform, name):
    with pytest.raises(DataError, match=r"\(crop_xywh, flip, mix_item, mix_box_xyxy\), but .*" + name):
        SoftLabelDataset(Numbers(), FakeLabels(augmented()), transform=transform)
    dataset = SoftLabelDataset(Numbers(), FakeLabels(augmented()), transform, ignore_replay=True)
    assert dataset[3][0] == 3


def test_ignored_replay_takes_whole_images():
    dataset = SoftLabelDataset(Images(), FakeLabels(augmented()), replay(SIZE), ignore_replay=True)
    assert torch.equal(dataset[3, 1][0], replay(SIZE)(Images()[3]))


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ("mix_box_xyxy", "no mix_box_xyxy or mix_lam to mix by"),
        ("mix_item", "have mix_box_xyxy, but no mix_item"),
    ],
)
def test_half_a_mix(left_out, message):
    columns = augmented()
    del columns[left_out]
    with pytest.raises(DataError, match=message):
        SoftLabelDataset(Numbers(), FakeLabels(columns), transform=replay(SIZE))


def test_resident_is_chosen_for_paths_and_obeyed(tmp_path, monkeypatch):
    path = tmp_path / "labels.spk"
    path.write_bytes(b"12345678")
    monkeypatch.setattr("softpack.data.dataset.open_labels", lambda _: FakeLabels())
    assert SoftLabelDataset(Numbers(), path).labels.is_loaded
    assert not SoftLabelDataset(Numbers(), str(path), resident=False).labels.is_loaded
    assert not SoftLabelDataset(Numbers(), FakeLabels()).labels.is_loaded
    assert SoftLabelDataset(Numbers(), FakeLabels(), resident=True).labels.is_loaded
    monkeypatch.setattr("softpack.data.dataset.RESIDENT_BYTES", 7)
    assert not SoftLabelDataset(Numbers(), path).labels.is_loaded


def test_batches_are_lists_of_samples():
    batch = SoftLabelDataset(Numbers(), FakeLabels()).__getitems__([3, 1])
    assert isinstance(batch, Batch)
    assert [image for image, _ in batch] == [3, 1]
