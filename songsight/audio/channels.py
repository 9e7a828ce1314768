"""Which of a recording's channels is heard, or how several become one.

The mean of two channels of opposite sign is silence, though both are loud: so a balanced microphone looks on a stereo
input, or one that was wired the wrong way round. Where the mean cancels, the loudest channel is heard instead.
"""

from __future__ import annotations

import re

import numpy as np

from songsight.errors import UserError
from songsight.reasons import AudioError

MEAN = "mean"
CANCELLED = "channels of opposite sign cancel in their mean: the loudest was heard"
_BLOCK_FRAMES = 1 << 16
_SUMMED_IN_PAIRS = 8  # from so many channels on NumPy sums in another order
_MOSTLY_OFFSET = 0.9  # of a channel's power
# Power of the sum of the channels over the sum of their powers: 1 where they have nothing in common or only one is not
# silent, 2 for two that are equal. Of all that is read, and of some block of it.
_CANCELS, _CANCELS_IN_A_BLOCK = 0.05, 1e-4
_NUMBERS = {"left": 1, "right": 2}


def parse(text: object, what: str) -> str:
    """A choice of channel as it is kept: mean, left, right, loudest, or a number from 1.

    Args:
        text: the choice; a whole number, too.
        what: the option or column that it was given as, for the error line.

    Raises:
        UserError: something else.
    """
    channel = re.sub(r"\.0$", "", str(text).strip().lower())  # a column with empty cells makes 2 a 2.0
    if not re.fullmatch(r"mean|left|right|loudest|[1-9]\d{0,3}", channel):
        raise UserError(f"{what} should be mean, left, right, loudest or a channel's number from 1 (got {text})")
    return channel


def require(channel: str, channels: int) -> None:
    """Raises AudioError where a recording of so many channels has not the one that is chosen."""
    number = _number(channel)
    if number and number > channels:
        raise AudioError("channel", f"channel {channel} is asked for, the file has {channels}")


def mix(samples: np.ndarray, channel: str) -> tuple[np.ndarray, str]:
    """One channel of several.

    Args:
        samples: float32 [frames, channels].
        channel: see `parse`; the file has it.

    Returns:
        (float32 [frames], what to know of it: `CANCELLED` or "").
    """
    if samples.shape[1] == 1:
        return samples[:, 0], ""
    if number := _number(channel):
        return np.ascontiguousarray(samples[:, number - 1]), ""
    products = _products(samples)
    if channel == MEAN and not _cancel(products):
        return _mean(samples), ""
    loudest = int(products.sum(axis=0).diagonal().argmax())
    return np.ascontiguousarray(samples[:, loudest]), CANCELLED if channel == MEAN else ""


def _number(channel: str) -> int:
    return _NUMBERS.get(channel) or (int(channel) if channel.isdecimal() else 0)


def _mean(samples: np.ndarray) -> np.ndarray:
    """`samples.mean(axis=1)` to the last bit; NumPy takes thirty times as long over so short an axis."""
    channels = samples.shape[1]
    if channels >= _SUMMED_IN_PAIRS:
        return samples.mean(axis=1, dtype=np.float32)
    total = samples[:, 0] + samples[:, 1]
    for number in range(2, channels):
        total += samples[:, number]
    total /= np.float32(channels)
    return total


def _products(samples: np.ndarray) -> np.ndarray:
    """Of each block of frames, the channels' products summed over it, without their offsets: [blocks, c, c]."""
    products = np.zeros((-(-len(samples) // _BLOCK_FRAMES), samples.shape[1], samples.shape[1]))
    for number in range(len(products)):
        block = samples[number * _BLOCK_FRAMES : (number + 1) * _BLOCK_FRAMES]
        offset = np.ones(len(block), np.float32) @ block / len(block)
        product = block.T @ block
        if (len(block) * offset**2 > _MOSTLY_OFFSET * product.diagonal()).any():
            # What is left of the difference would be the rounding of both.
            block = block - block.mean(axis=0, dtype=np.float64).astype(np.float32)
            product, offset = block.T @ block, 0 * offset
        products[number] = product - len(block) * np.outer(offset, offset)
    return products


def _cancel(products: np.ndarray) -> bool:
    """Whether the channels cancel each other out, in all or in some block of `_products`."""

    def share(some: np.ndarray) -> np.ndarray:
        powers = np.trace(some, axis1=-2, axis2=-1)
        return np.where(powers > 0, some.sum(axis=(-2, -1)) / np.where(powers > 0, powers, 1), 1)

    return bool(share(products.sum(axis=0)) < _CANCELS or (share(products) < _CANCELS_IN_A_BLOCK).any())
