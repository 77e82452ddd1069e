"""The demo's stimuli and what models make of them, in NumPy and SciPy alone."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rsafast.features import compute_rdms
from rsafast.rdms import RDMs

FloatArray = NDArray[np.float64]

N_CLASSES = 10
PER_CLASS = 72
_ORIENTATIONS = 6
_WAVELENGTHS = (2.5, 4.0, 6.0)  # pixels; the images are 8 × 8
_CHANNELS = (16, 32, 64)


def digits() -> tuple[FloatArray, NDArray[np.int64], list[str]]:
    """Handwritten digits that scikit-learn ships: the first 72 of each class, class by class.

    Returns
    -------
    images : (720, 8, 8) grey values from 0 to 1.
    classes : (720,) the digit shown.
    labels : 720 stimulus ids such as ``digit3_017``.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    chosen = [np.flatnonzero(data.target == digit)[:PER_CLASS] for digit in range(N_CLASSES)]
    classes = np.repeat(np.arange(N_CLASSES), PER_CLASS)
    labels = [f"digit{digit}_{i:03d}" for digit in range(N_CLASSES) for i in range(PER_CLASS)]
    return data.images[np.concatenate(chosen)] / 16.0, classes, labels


def gabor_energy(images: FloatArray) -> FloatArray:
    """Energy of quadrature Gabor filters: 6 orientations × 3 wavelengths at every pixel.

    Parameters
    ----------
    images : (n, height, width)

    Returns
    -------
    (n, 18 · height · width) root of the summed squares of the even and the odd filter.
    """
    from scipy.signal import fftconvolve

    centred = images - images.mean(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[-4:5, -4:5].astype(float)
    layers = []
    for wavelength in _WAVELENGTHS:
        envelope = np.exp(-(x**2 + y**2) / (2 * (0.5 * wavelength) ** 2))
        for angle in np.pi * np.arange(_ORIENTATIONS) / _ORIENTATIONS:
            phase = 2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength
            energy = np.zeros_like(images)
            for carrier in (np.cos(phase), np.sin(phase)):
                wavelet = envelope * carrier
                wavelet -= envelope * (wavelet.sum() / envelope.sum())  # blind to brightness
                wavelet /= np.linalg.norm(wavelet)  # every scale counts alike
                energy += fftconvolve(centred, wavelet[None], mode="same", axes=(1, 2)) ** 2
            layers.append(np.sqrt(energy).reshape(len(images), -1))
    return np.hstack(layers)


def untrained_cnn(images: FloatArray, seed: int = 0) -> dict[str, FloatArray]:
    """Activations of three convolution–ReLU–max-pool layers that nobody trained.

    Weights and biases are uniform in ±1/√fan-in, PyTorch's default for a convolution; the batch
    normalisation of an untrained network in evaluation mode is the identity.

    Parameters
    ----------
    images : (n, 8, 8)
    seed : of the weights.

    Returns
    -------
    dict
        ``conv1``, ``conv2`` and ``conv3``: (n, channels · height · width), pooled.
    """
    generator = np.random.default_rng(seed)
    x, layers = images[:, None], {}
    for number, channels in enumerate(_CHANNELS, 1):
        bound = 1 / np.sqrt(x.shape[1] * 9)
        weights = generator.uniform(-bound, bound, (channels, x.shape[1], 3, 3))
        bias = generator.uniform(-bound, bound, channels)
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = sliding_window_view(padded, (3, 3), (2, 3))
        maps = np.maximum(np.tensordot(windows, weights, ((1, 4, 5), (1, 2, 3))) + bias, 0)
        n, height, width, _ = maps.shape
        pooled = maps.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
        x = pooled.transpose(0, 3, 1, 2)
        layers[f"conv{number}"] = x.reshape(n, -1)
    return layers


def model_features(images: FloatArray, classes: NDArray[np.int64]) -> dict[str, FloatArray]:
    """Features of the six models, (n, channels) each, from pixels to labels."""
    return {
        "pixels": images.reshape(len(images), -1),
        "Gabor energy": gabor_energy(images),
        **untrained_cnn(images),
        "labels": np.eye(N_CLASSES)[classes],
    }


def model_rdms(features: dict[str, FloatArray], labels: list[str]) -> RDMs:
    """RDMs of the six models: 1 − r; for the labels 0 within and 1 between digits."""
    *networks, last = features
    continuous = compute_rdms({name: features[name] for name in networks}, labels=labels)
    # Half the squared distance of two one-hot rows is 0 or 1.
    category = compute_rdms(features[last] / np.sqrt(2), "sqeuclidean", labels=labels, names=[last])
    return RDMs.concat([continuous, category])
