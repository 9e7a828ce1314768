"""A photograph is the same one in any file that holds it, and shows nothing that its file hides."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from songsight import photographs

GREY = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
NIGHT = GREY // 3 + 2
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def read(data: bytes) -> np.ndarray:
    image = photographs.read(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def deep_png(levels: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits a channel, which Pillow writes in grey alone."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    head = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
@pytest.mark.parametrize("grey", [GREY, NIGHT])
def test_sixteen_bits_are_the_eight_of_their_twin(kind: str, grey: np.ndarray) -> None:
    data = encoded(Image.fromarray(grey.astype(np.uint16) * 257), kind)
    np.testing.assert_array_equal(read(data)[..., 0], grey)


@pytest.mark.parametrize(
    "levels",
    [
        GREY,
        GREY.astype(np.uint16),
        GREY.astype(np.int32) * 257,
        np.round(GREY * (4095 / 255)).astype(np.uint16),  # a sensor of 12 bits
        np.round(GREY * (16383 / 255)).astype(np.uint16),
        GREY.astype(np.float32) / 255,
        GREY.astype(np.float32),
        GREY.astype(np.float32) * 257,
        GREY.astype(np.float32) * 0.137 - 3,  # some unit's own
        GREY.astype(np.int32) - 128,
    ],
)
def test_levels_of_any_depth(levels: np.ndarray) -> None:
    found = read(encoded(Image.fromarray(levels), "TIFF"))
    assert np.abs(found[..., 0].astype(int) - GREY).max() <= 1
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_deep_colours_and_cut_outs(colour_type: int, channels: int) -> None:
    levels = np.repeat(GREY[..., None].astype(np.uint16) * 257, channels, axis=2)
    if channels in (2, 4):
        levels[..., -1] = 65535
        levels[:10, :, -1] = 0
    expected = np.repeat(GREY[..., None], 3, axis=2)
    expected[: 10 if channels in (2, 4) else 0] = 255
    np.testing.assert_array_equal(read(deep_png(levels, colour_type)), expected)


def test_pixels_without_a_number_are_black() -> None:
    levels = GREY.astype(np.float32) / 255
    levels[0, 0], levels[1, 0], levels[2, 0] = np.nan, np.inf, -np.inf
    assert read(encoded(Image.fromarray(levels), "TIFF"))[:3, 0, 0].tolist() == [0, 255, 0]
    assert photographs.to_8_bits(np.full((2, 2), np.nan, np.float32)).tolist() == [[0, 0], [0, 0]]
    assert photographs.to_8_bits(np.full((1, 1), 7.5, np.float32)).shape == (1, 1)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {})])
def test_a_cut_out_stands_on_white(kind: str, options: dict[str, Any]) -> None:
    """Though black, or another bird, is hidden where it is transparent."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (*RED, 255)
    found = read(encoded(Image.fromarray(pixels), kind, **options))
    assert [tuple(pixel) for pixel in found[[0, 3], 0]] == [RED, WHITE]


def test_half_transparent_and_grey() -> None:
    pixels = np.array([[[0, 255], [0, 0], [0, 128]]], np.uint8)
    found = read(encoded(Image.fromarray(pixels, "LA"), "PNG"))
    assert found[0, :, 0].tolist() == pytest.approx([0, 255, 127], abs=1)


@pytest.mark.parametrize("transparency", [2, bytes([255, 255, 0, 255])])
def test_a_palette_with_a_transparent_colour(transparency: Any) -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8), "P")
    image.putpalette([*RED, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    found = read(encoded(image, "PNG", transparency=transparency))
    assert [tuple(pixel) for pixel in found[0]] == [RED, (0, 255, 0), WHITE, (9, 9, 9)]


@pytest.mark.parametrize(
    ("levels", "transparency", "expected"),
    [
        (np.array([[0, 100, 255]], np.uint8), 100, [0, 255, 255]),
        (np.array([[0, 1000, 65535]], np.uint16), 1000, [0, 255, 255]),
        (np.array([[[0, 0, 0], [1, 2, 3]]], np.uint8), (1, 2, 3), [0, 255]),
    ],
)
def test_one_colour_that_is_transparent(levels: np.ndarray, transparency: Any, expected: list[int]) -> None:
    assert read(encoded(Image.fromarray(levels), "PNG", transparency=transparency))[0, :, 0].tolist() == expected


def test_ordinary_photographs_are_as_they_were() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (30, 40, 3), np.uint8)
    for kind in ("JPEG", "PNG", "WEBP", "BMP"):
        data = encoded(Image.fromarray(pixels), kind)
        np.testing.assert_array_equal(read(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    turned = Image.Exif()
    turned[0x0112] = 6
    assert read(encoded(Image.fromarray(pixels), "JPEG", exif=turned.tobytes())).shape == (40, 30, 3)


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(90), b"GIF89a" + bytes(9), b"II*\0" + bytes(40)]
)
def test_what_is_no_picture_says_so_in_plain_words(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        photographs.read(data)
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_picture() -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(2).integers(0, 256, (90, 90, 3), np.uint8)), "JPEG")
    with pytest.raises(ValueError, match="truncated"):
        photographs.read(whole[: len(whole) // 2])
