"""Augmentation in batches equals the per-image definition, and draws what it says it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rsafast_kernels.errors import InvalidInputError
from rsafast_training.data import Augment, normalise
from rsafast_training.data.augment import Draws


def one_by_one(images: np.ndarray, draws: Draws, pad: int) -> np.ndarray:
    """Flip, pad with black, crop: an image at a time, as torchvision does."""
    _, _, height, width = images.shape
    out = np.empty_like(images)
    for i, image in enumerate(images):
        mirrored = image[:, :, ::-1] if draws.flip[i] else image
        padded = np.pad(mirrored, ((0, 0), (pad, pad), (pad, pad)))
        top, left = int(draws.top[i]), int(draws.left[i])
        out[i] = padded[:, top : top + height, left : left + width]
    return out


@pytest.fixture
def images(rng: np.random.Generator) -> torch.Tensor:
    # Height and width differ, and no pixel is black, so that transposes and padding show.
    return torch.from_numpy(rng.integers(1, 256, (37, 3, 10, 7), np.uint8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", ["channels first", "channels last"])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_equals_the_per_image_definition(images, dtype, layout, flip, pad):
    x = images.to(dtype)
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    augment = Augment(flip=flip, pad=pad)
    draws = augment.draw(len(x), torch.Generator().manual_seed(3))
    got = augment.apply(x, draws)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.numpy(), one_by_one(x.numpy(), draws, pad))


def test_call_draws_from_the_generator_it_is_given(images):
    augment = Augment()
    first, again, other = (augment(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_off_changes_nothing_and_inputs_are_kept(images):
    before = images.clone()
    off = Augment(flip=False, pad=0)
    assert torch.equal(off(images, torch.Generator()), before)
    Augment()(images, torch.Generator())
    assert torch.equal(images, before)


def test_flips_and_offsets_are_uniform_and_independent():
    n, pad = 81_000, 4
    draws = Augment(pad=pad).draw(n, torch.Generator().manual_seed(0))
    # (flip, top, left) has 2 x 9 x 9 equally likely cells of 500: chi-square with 161 degrees of
    # freedom has mean 161 and standard deviation 18; 250 is five of them above.
    cell = (draws.flip.long() * 9 + draws.top) * 9 + draws.left
    counts = torch.bincount(cell, minlength=162).double()
    assert len(counts) == 162
    assert ((counts - n / 162) ** 2 / (n / 162)).sum() < 250


def test_padding_is_black_before_normalisation(images):
    still = torch.zeros(37, dtype=torch.int64)
    shifted = Augment().apply(images, Draws(still.bool(), still, still))
    corner = normalise(shifted, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))[:, :, 0, 0]
    expected = torch.tensor([-0.5 / 0.2, -0.4 / 0.25, -0.3 / 0.5]).expand(37, 3)
    torch.testing.assert_close(corner, expected)


def test_normalise_is_to_tensor_then_normalize(images):
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
    got = normalise(images, mean, std)
    assert got.dtype == torch.float32
    wide = images.double() / 255
    for channel in range(3):
        expected = (wide[:, channel] - mean[channel]) / std[channel]
        # Four float32 roundings of values up to 2.2.
        torch.testing.assert_close(got[:, channel].double(), expected, rtol=0, atol=1e-6)


def test_rejects_what_it_cannot_augment(images):
    with pytest.raises(InvalidInputError, match="pad must be 0 pixels or more, got -1"):
        Augment(pad=-1)
    draws = Augment().draw(36, torch.Generator())
    with pytest.raises(InvalidInputError, match=r"n = 36.*\(37, 3, 10, 7\)"):
        Augment().apply(images, draws)
    with pytest.raises(InvalidInputError, match=r"uint8.*float32"):
        normalise(images.float(), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_equals_cpu(images):
    draws = Augment().draw(37, torch.Generator().manual_seed(0))
    there = Augment().apply(images.cuda(), draws)
    assert torch.equal(there.cpu(), Augment().apply(images, draws))
