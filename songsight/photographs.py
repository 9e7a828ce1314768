"""A photograph as a model takes it: upright, red, green and blue of 8 bits, whatever the file holds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_DEPTHS = (8, 10, 12, 14, 16, 24, 32)
"""Bits that cameras and scanners count in; a file of 16 may hold any of the first five."""


def read(data: bytes) -> Image:
    """The photograph in a file's bytes, turned upright.

    Levels of more than 8 bits are scaled down; what is transparent, by whatever means, is white, not what lies
    hidden there.

    Raises:
        ValueError: nothing that Pillow can decode; in a few words.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            # Pillow turns the levels of a TIFF whose white is zero round (tag 262) in 8 bits only.
            inverted = image.mode[:1] in "IF" and getattr(image, "tag_v2", {}).get(262) == 0
            seen = on_white(ImageOps.exif_transpose(image))
            return ImageOps.invert(seen) if inverted else seen
    except UnidentifiedImageError:  # whose own words name the object in memory
        raise ValueError("no picture of a format that Pillow knows") from None
    except Exception as error:  # each format's plug-in has its own: struct.error, KeyError, zlib.error, MemoryError …
        raise ValueError(f"{' '.join(str(error).split()) or type(error).__name__}") from None


def on_white(image: Image) -> Image:
    """An image of any mode as RGB."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        levels = np.asarray(image)
        grey = to_8_bits(levels)
        if isinstance(hidden := image.info.get("transparency"), int | float):
            grey[levels == hidden] = 255
        return Image.fromarray(grey).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def to_8_bits(levels: np.ndarray) -> np.ndarray:
    """Grey levels of any number type as uint8 of the same shape; black stays black where nothing is below it.

    Their range is that of the fewest bits that hold them, or 0 to 1. Fractions beyond that, and negative levels, have
    no range but their own darkest and brightest.
    """
    known = levels[np.isfinite(levels)].astype(np.float64)
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    whole = low >= 0 and bool((known == np.floor(known)).all())
    if levels.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif whole:
        low, high = 0.0, float(2 ** next((bits for bits in _DEPTHS if high < 2**bits), 64) - 1)
    span = (high - low) or 1.0
    scaled = (np.nan_to_num(levels.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / span
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
