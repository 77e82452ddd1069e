"""Training batches of 128 CIFAR-sized images, beside the same steps an image at a time with Pillow.

The per-image provider does what torchvision does to PIL images: ``RandomHorizontalFlip``,
``RandomCrop(32, padding=4)``, ``ToTensor`` and ``Normalize``. Both answers are compared before any
time is taken. `test_decode` reads 2,000 JPEGs of noise, which are larger than those of photographs.

Run: ``OMP_NUM_THREADS=1 pytest benchmarks/bench_data.py``.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from rsafast_training.data import Augment, Batches, ImageData
from rsafast_training.data.augment import Draws
from rsafast_training.images import decode_rgb
from rsafast_training.randomness import generator

BATCH, STEPS = 128, 10


@pytest.fixture(scope="module")
def data() -> ImageData:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8_000, 32, 32, 3), np.uint8)
    return ImageData.from_arrays(images, np.arange(8_000) % 10, images[:1000], np.arange(1000) % 10)


def one_by_one(data: ImageData, rows: torch.Tensor, draws: Draws) -> torch.Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (data.mean, data.std))
    out = []
    for i, row in enumerate(rows.tolist()):
        image = Image.fromarray(data.train_images[row])
        if draws.flip[i]:
            image = ImageOps.mirror(image)
        top, left = int(draws.top[i]), int(draws.left[i])
        image = ImageOps.expand(image, 4).crop((left, top, left + 32, top + 32))
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        out.append(tensor.sub_(mean).div_(std))
    return torch.stack(out)


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("provider", ["rsafast", "one by one"])
def test_batches(benchmark, data, seeds, provider):
    which = list(range(seeds))
    batches = Batches(data, batch_size=BATCH, augment=Augment())
    orders = [torch.randperm(8_000, generator=generator(s, "order", 0)) for s in which]
    draws = [Augment().draw(8_000, generator(s, "augment", 0)) for s in which]

    def ours():
        return [x for _, (x, _) in zip(range(STEPS), batches.epoch(which, 0), strict=False)]

    def theirs():
        chunks = [slice(BATCH * i, BATCH * (i + 1)) for i in range(STEPS)]
        each = list(zip(orders, draws, strict=True))
        return [torch.stack([one_by_one(data, o[c], d.take(c)) for o, d in each]) for c in chunks]

    for a, b in zip(ours(), theirs(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    run = ours if provider == "rsafast" else theirs
    benchmark.extra_info["images"] = seeds * BATCH * STEPS
    benchmark.pedantic(run, rounds=10 if provider == "rsafast" else 3, warmup_rounds=1)


def test_decode(benchmark, data):
    files = []
    for image in data.train_images[:2000]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=75)
        files.append(buffer.getvalue())
    expected = np.asarray(Image.open(io.BytesIO(files[0])))
    np.testing.assert_array_equal(decode_rgb(files[0], "first"), expected)
    benchmark.extra_info["images"] = len(files)
    benchmark.pedantic(lambda: [decode_rgb(f, "x") for f in files], rounds=3)
