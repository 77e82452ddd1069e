"""Image files to RGB arrays, and arrays to squares: the only place where pixels are decoded.

Decoding is Pillow's, without colour management: an embedded colour profile and an EXIF orientation
are ignored, as torchvision's ``ImageFolder`` ignores them.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError

__all__ = ["decode_rgb", "fit_square"]

# What Pillow raises for bytes that are no image, or stop being one half way.
_BROKEN = (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def decode_rgb(
    source: bytes | Path, name: str, background: tuple[int, int, int] = (255, 255, 255)
) -> NDArray[np.uint8]:
    """Decode an image of any format that Pillow reads.

    Greyscale and black-and-white repeat one channel, 16-bit greyscale keeps its upper 8 bits,
    palettes are looked up, CMYK and the other colour spaces are converted by Pillow's formulas.
    An animation gives its first frame.

    Parameters
    ----------
    source : the file's path, or its bytes.
    name : what error messages call the image, such as its path or "image 17 of x.npz".
    background : RGB colour shown through transparent pixels; white by default. (torchvision drops
        the alpha channel instead, which shows whatever colour lies hidden under it.)

    Returns
    -------
    (H, W, 3) uint8 array, RGB.

    Raises
    ------
    InvalidInputError
        The file is missing, unreadable, truncated or no image.
    UnsupportedCaseError
        Pixels are 32-bit numbers, whose range no file states.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return np.array(_to_rgb(image, name, background))
    except FileNotFoundError:
        raise InvalidInputError(
            f"{name}: there is no such image file; check the path or take it off the list"
        ) from None
    except PermissionError:
        raise InvalidInputError(
            f"{name}: the image may not be read; give this user permission (chmod +r)"
        ) from None
    except UnsupportedCaseError:
        raise
    except _BROKEN as error:
        reason = "no image format that Pillow knows" if "identify" in str(error) else error
        raise InvalidInputError(
            f"{name}: is truncated, damaged or no image ({reason}); copy it again from its source"
        ) from None


def _to_rgb(image: Image.Image, name: str, background: tuple[int, int, int]) -> Image.Image:
    if image.mode in ("I", "F"):
        raise UnsupportedCaseError(
            f"{name}: holds 32-bit pixels (mode {image.mode!r}), whose white is unknown; "
            "save it with 8 bits a channel"
        )
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion clips at 255, which turns most 16-bit images white.
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        shown = Image.new("RGBA", layers.size, (*background, 255))
        return Image.alpha_composite(shown, layers).convert("RGB")
    return image.convert("RGB")


def fit_square(rgb: NDArray[np.uint8], size: int, resize: int | None = None) -> NDArray[np.uint8]:
    """Scale the shorter edge to `resize` and cut the central `size` x `size` pixels.

    The arithmetic is that of torchvision's ``Resize`` and ``CenterCrop`` on PIL images: bilinear
    with antialiasing, the longer edge ``int(resize * long / short)``, the corner rounded half to
    even.

    Parameters
    ----------
    rgb : (H, W, 3) uint8.
    size : edge of the result, in pixels.
    resize : length of the shorter edge before the cut, at least `size`; None is `size`.

    Returns
    -------
    (size, size, 3) uint8 array.
    """
    resize = size if resize is None else resize
    if not 1 <= size <= resize:
        raise InvalidInputError(
            f"size must be from 1 to the resized shorter edge ({resize}), got {size}"
        )
    height, width = rgb.shape[:2]
    short = min(height, width)
    if short != resize:
        edges = (int(resize * width / short), int(resize * height / short))
        rgb = np.asarray(Image.fromarray(rgb).resize(edges, Image.Resampling.BILINEAR))
        height, width = rgb.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.ascontiguousarray(rgb[top : top + size, left : left + size])
