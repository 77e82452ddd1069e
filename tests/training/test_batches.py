"""Batches depend on (seed, epoch) alone, whether networks train together, alone, or resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rsafast_kernels.errors import InvalidInputError
from rsafast_training.data import Augment, Batches, ImageData, normalise

N, SEEDS = 53, [42, 7, 1337]


@pytest.fixture
def data(rng: np.random.Generator) -> ImageData:
    return ImageData.from_arrays(
        rng.integers(0, 256, (N, 6, 5, 3), np.uint8), np.arange(N) % 4,
        rng.integers(0, 256, (11, 6, 5, 3), np.uint8), np.arange(11) % 4,
    )  # fmt: skip


def plain(data: ImageData, rows: np.ndarray) -> torch.Tensor:
    images = torch.from_numpy(data.train_images[rows]).permute(0, 3, 1, 2)
    return normalise(images, data.mean, data.std)


def all_of(batches) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    axis = labels[0].ndim - 1
    return torch.cat(images, axis), torch.cat(labels, axis)


@pytest.mark.parametrize("augment", [None, Augment(pad=2)], ids=["plain", "augmented"])
@pytest.mark.parametrize("own_subsets", [False, True], ids=["one subset", "own subsets"])
def test_stacked_batches_are_those_of_each_seed_alone(data, augment, own_subsets):
    subsets = {s: data.subset(40, s) for s in SEEDS} if own_subsets else data.subset(40, 42)
    batches = Batches(data, subsets, batch_size=8, augment=augment)
    stacked = list(batches.epoch(SEEDS, 3))
    assert len(stacked) == len(batches) == 5
    for row, seed in enumerate(SEEDS):
        for (x, y), (x1, y1) in zip(stacked, batches.epoch([seed], 3), strict=True):
            assert torch.equal(x[row], x1[0])
            assert torch.equal(y[row], y1[0])


def test_shapes_types_and_labels_that_go_with_their_images(data):
    batches = Batches(data, batch_size=8)
    # Without augmentation every image can be found again, and with it its label.
    everything = plain(data, np.arange(N)).reshape(N, -1)
    for x, y in batches.epoch(SEEDS, 0):
        assert (x.shape, x.dtype, x.is_contiguous()) == ((3, 8, 3, 6, 5), torch.float32, True)
        assert (y.shape, y.dtype) == ((3, 8), torch.int64)
        found = (x.reshape(24, 1, -1) == everything).all(-1).int().argmax(1)
        assert torch.equal(x.reshape(24, -1), everything[found])
        assert torch.equal(y.reshape(-1), torch.from_numpy(data.train_labels)[found])


def test_an_epoch_uses_each_image_of_the_subset_once(data):
    rows = data.subset(40, 1)
    x, _ = all_of(Batches(data, rows, batch_size=7, drop_last=False).epoch([5], 2))
    expected = plain(data, rows).reshape(40, -1)
    got = x[0].reshape(40, -1)
    assert torch.equal(got.sum(1).sort().values, expected.sum(1).sort().values)
    assert not torch.equal(got, expected)


def test_orders_and_draws_differ_by_seed_and_epoch_and_repeat_in_any_sequence(data):
    batches = Batches(data, batch_size=8, augment=Augment())
    runs = {(s, e): all_of(batches.epoch([s], e))[0] for s in SEEDS for e in (0, 1, 2)}
    # A resumed run starts at a later epoch, from nothing.
    resumed = Batches(data, batch_size=8, augment=Augment())
    assert torch.equal(all_of(resumed.epoch([7], 2))[0], runs[7, 2])
    keys = list(runs)
    for i, a in enumerate(keys):
        assert not any(torch.equal(runs[a], runs[b]) for b in keys[:i])


def test_flips_and_crops_differ_by_seed_and_epoch(rng):
    # Copies of one image: their order cannot show, so that what differs is the augmentation.
    copies = np.repeat(rng.integers(0, 256, (1, 6, 5, 3), np.uint8), N, axis=0)
    same = ImageData.from_arrays(copies, np.arange(N) % 4, copies[:4], np.arange(4))
    batches = Batches(same, batch_size=N, augment=Augment())
    runs = [all_of(batches.epoch([s], e))[0] for s in SEEDS for e in (0, 1, 2)]
    assert not any(torch.equal(a, b) for i, a in enumerate(runs) for b in runs[:i])


def test_augmentation_does_not_depend_on_the_batch_size(data):
    small, large = (
        all_of(Batches(data, batch_size=size, augment=Augment(), drop_last=False).epoch([1], 0))
        for size in (4, 53)
    )
    assert torch.equal(small[0], large[0])


@pytest.mark.parametrize(("drop_last", "count", "last"), [(True, 6, 8), (False, 7, 5)])
def test_last_batch(data, drop_last, count, last):
    sizes = [len(y[0]) for _, y in Batches(data, batch_size=8, drop_last=drop_last).epoch([0], 0)]
    assert len(sizes) == count
    assert sizes[-1] == last


def test_clean_splits_are_in_order_and_plain(data):
    rows = data.subset(40, 9)
    batches = Batches(data, rows, batch_size=8, augment=Augment())
    x, y = all_of(batches.clean("train", batch_size=9))
    assert torch.equal(x, plain(data, rows))
    assert torch.equal(y, torch.from_numpy(data.train_labels[rows]))
    x, y = all_of(batches.clean("test", batch_size=4))
    test = torch.from_numpy(data.test_images).permute(0, 3, 1, 2)
    assert torch.equal(x, normalise(test, data.mean, data.std))
    assert torch.equal(y, torch.from_numpy(data.test_labels))


def test_clean_subsets_are_each_seeds_own(data):
    subsets = {s: data.subset(40, s) for s in SEEDS}
    batches = Batches(data, subsets, batch_size=8, augment=Augment())
    x, y = all_of(batches.clean_subsets(SEEDS, batch_size=9))
    for row, seed in enumerate(SEEDS):
        assert torch.equal(x[row], plain(data, subsets[seed]))
        assert torch.equal(y[row], torch.from_numpy(data.train_labels[subsets[seed]]))
    with pytest.raises(InvalidInputError, match="clean_subsets"):
        next(batches.clean("train"))


def test_subset_is_the_draw_of_the_study(data):
    torch.manual_seed(42)
    assert np.array_equal(data.subset(40, 42), torch.randperm(N)[:40].numpy())
    with pytest.raises(InvalidInputError, match=r"from 1 to the 53 training images .*, got 54"):
        data.subset(54, 0)


@pytest.mark.parametrize(
    ("indices", "options", "message"),
    [
        ([0, N], {}, r"from 0 to 52, got 0 to 53"),
        ([-1, 3], {}, r"from 0 to 52, got -1 to 3"),
        ([0.5, 1.0], {}, r"whole numbers.*float64"),
        ([True, False], {}, r"whole numbers.*bool"),
        ([], {}, r"at least one"),
        ({1: [0, 1], 2: [0]}, {}, r"as many images for every seed, got \[1, 2\]"),
        ({}, {}, r"got no seed"),
        (range(20), {}, r"batch_size must be from 1 to the 20 training images, got 128"),
        (None, {"batch_size": 0}, r"batch_size must be from 1 to the 53"),
    ],
)
def test_rejects(data, indices, options, message):
    with pytest.raises(InvalidInputError, match=message):
        Batches(data, indices, **options)


def test_rejects_unknown_seed_and_split(data):
    batches = Batches(data, {1: range(20), 2: range(20)}, batch_size=4)
    with pytest.raises(InvalidInputError, match="no training images for seed 3, only for 1, 2"):
        next(batches.epoch([3], 0))
    with pytest.raises(InvalidInputError, match="'train' or 'test', got 'val'"):
        next(batches.clean("val"))
