"""Image-classification sets: CIFAR-10, Tiny ImageNet and ImageNet."""

from __future__ import annotations

from rsafast.datasets.catalogue.entries import DataSet, Download, Files, Layout

_READER = "rsafast_training.data.load_dataset"

_CIFAR_BYTES = 10_000 * (1 + 3 * 32 * 32)  # of a binary file
_CIFAR_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz"

CIFAR_10 = DataSet(
    name="cifar-10",
    what="CIFAR-10: 60,000 images of 32 × 32, 10 classes",
    size="unpacked 184,380,000 bytes of images and labels (binary version)",
    access="open",
    source="cs.toronto.edu/~kriz/cifar.html",
    reader=_READER,
    layouts=(
        Layout(
            name="binary",
            files=(
                *(
                    Files(path=f"{batch}.bin", holds=f"10,000 images, {batch}", size=_CIFAR_BYTES)
                    for batch in _CIFAR_BATCHES
                ),
                Files(path="batches.meta.txt", holds="names of the classes"),
            ),
        ),
        Layout(
            name="python",
            files=(
                *(
                    Files(path=batch, holds=f"10,000 images, {batch}", at_least=10_000 * 3_072)
                    for batch in _CIFAR_BATCHES
                ),
                Files(path="batches.meta", holds="names of the classes, a pickle"),
            ),
        ),
    ),
    downloads={
        "python": Download(
            name="cifar-10-python.tar.gz",
            url=f"{_CIFAR_URL}/cifar-10-python.tar.gz",
            known_hash="md5:c58f30108f718f92721af3b95e74349a",
            gives="cifar-10-batches-py",
            unpacked=6 * _CIFAR_BYTES,
        ),
        "binary": Download(
            name="cifar-10-binary.tar.gz",
            url=f"{_CIFAR_URL}/cifar-10-binary.tar.gz",
            gives="cifar-10-batches-bin",
            unpacked=6 * _CIFAR_BYTES,
        ),
    },
)

TINY_IMAGENET = DataSet(
    name="tiny-imagenet",
    what="Tiny ImageNet: 120,000 images of 64 × 64, 200 classes",
    access="open",
    source="cs231n.stanford.edu/tiny-imagenet-200.zip",
    reader=_READER,
    layouts=(
        Layout(
            name="as published",
            files=(
                Files(path="wnids.txt", holds="the 200 classes"),
                Files(path="words.txt", holds="names of the classes", needed=False),
                Files(
                    path="train/{wnid}/images/*.JPEG", holds="training images",
                    counts={"": 100_000},
                ),
                Files(path="val/images/*.JPEG", holds="validation images", counts={"": 10_000}),
                Files(path="val/val_annotations.txt", holds="classes of the validation images"),
                Files(
                    path="test/images/*.JPEG", holds="test images, unlabelled", needed=False,
                    counts={"": 10_000},
                ),
            ),
        ),
    ),
    downloads={
        "zip": Download(
            name="tiny-imagenet-200.zip",
            url="https://cs231n.stanford.edu/tiny-imagenet-200.zip",
            gives="tiny-imagenet-200",
        )
    },
)  # fmt: skip

_TRAIN = Files(path="train/{wnid}/*.JPEG", holds="training images", counts={"": 1_281_167})
_KIT = "ILSVRC2012_devkit_t12/data"

IMAGENET = DataSet(
    name="imagenet",
    what="ImageNet-1k (ILSVRC 2012): 1,281,167 training and 50,000 validation images",
    access="registration",
    source="the ImageNet site, after registration",
    reader=_READER,
    layouts=(
        Layout(
            name="validation images in class folders",
            files=(
                _TRAIN,
                Files(
                    path="val/{wnid}/ILSVRC2012_val_*.JPEG", holds="validation images",
                    counts={"": 50_000},
                ),
            ),
        ),
        Layout(
            name="validation images flat, as shipped",
            files=(
                _TRAIN,
                Files(
                    path="val/ILSVRC2012_val_*.JPEG", holds="validation images",
                    counts={"": 50_000},
                ),
                Files(
                    path=f"{_KIT}/ILSVRC2012_validation_ground_truth.txt",
                    holds="classes of the validation images",
                ),
                Files(
                    path=f"{_KIT}/meta.mat",
                    holds="wnid of every ILSVRC2012_ID; class indices are no order of sorted wnids",
                ),
            ),
        ),
    ),
)  # fmt: skip
