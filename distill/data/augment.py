"""Changes to a batch of clips that leave their species what it was, on the device that holds them.

    waveforms → shift, background, gain → mel → masks in time and frequency → audio tower

Each clip is changed in its own way. All that is random is drawn from the given generator, on the generator's device: a
step is reproduced by its seed, and a generator on the CPU draws the same for a batch on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Augment:
    """How much a clip may be changed; as it stands, nothing is.

    Attributes:
        gain_db: the level changes by up to this many dB, up or down; 0 for never.
        noise_p: the chance that a clip gets a background, 0 to 1.
        noise_snr_db: lowest and highest level of the clip over its background, in dB.
        shift_s: the clip is rotated by up to this many seconds, earlier or later; 0 for never.
        time_mask: frames that one mask in time hides at most; 0 for none.
        time_masks: masks in time; 0 for none. They may overlap.
        freq_mask, freq_masks: the same in mel bands.
    """

    gain_db: float = 0.0
    noise_p: float = 0.0
    noise_snr_db: tuple[float, float] = (0.0, 20.0)
    shift_s: float = 0.0
    time_mask: int = 0
    time_masks: int = 2
    freq_mask: int = 0
    freq_masks: int = 2


def on_waves(
    waves_BS: torch.Tensor,
    augment: Augment,
    rate_hz: int,
    noise_NS: torch.Tensor | None,
    generator: torch.Generator,
) -> torch.Tensor:
    """Shifts clips in time, mixes backgrounds into them and changes their level, in this order.

    Args:
        waves_BS: float [batch, samples].
        augment: what to do; masks are `on_mels`'.
        rate_hz: samples a second.
        noise_NS: backgrounds to draw from, float [clips, samples], as long as the clips and on their device; None or
            no clips for no backgrounds.
        generator: drawn from.

    Returns:
        As `waves_BS`; the tensor itself where all of this is off.
    """
    if augment.shift_s:
        waves_BS = _shifted(waves_BS, round(augment.shift_s * rate_hz), generator)
    if augment.noise_p and noise_NS is not None and len(noise_NS):
        waves_BS = _with_noise(waves_BS, augment, noise_NS, generator)
    if augment.gain_db:
        gain_db_B = _uniform(waves_BS, -augment.gain_db, augment.gain_db, generator)
        waves_BS = waves_BS * _factor(gain_db_B)[:, None]
    return waves_BS


def on_mels(mel_B1TM: torch.Tensor, augment: Augment, generator: torch.Generator) -> torch.Tensor:
    """SpecAugment's masks (arXiv 1904.08779, section 2): stripes of time and of frequency are hidden.

    A mask's width is uniform from 0 to the widest, its place uniform among those where it fits. What is hidden becomes
    the clip's mean, which is the paper's 0 for features that are not centred.

    Args:
        mel_B1TM: log-mels, float [batch, 1, frames, mels].
        augment: what to do; only its masks are used.
        generator: drawn from.

    Returns:
        As `mel_B1TM`; the tensor itself where all masks are off.
    """
    if not (augment.time_mask * augment.time_masks or augment.freq_mask * augment.freq_masks):
        return mel_B1TM
    _, _, frames, mels = mel_B1TM.shape
    hidden_BT = _stripes(mel_B1TM, frames, augment.time_mask, augment.time_masks, generator)
    hidden_BM = _stripes(mel_B1TM, mels, augment.freq_mask, augment.freq_masks, generator)
    hidden_B1TM = (hidden_BT[:, :, None] | hidden_BM[:, None, :])[:, None]
    return torch.where(hidden_B1TM, mel_B1TM.mean((1, 2, 3), keepdim=True), mel_B1TM)


def _shifted(waves_BS: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Each clip rotated by −most to most samples; positive is later."""
    clips, samples = waves_BS.shape
    shift_B = torch.randint(-most, most + 1, (clips,), generator=generator, device=generator.device)
    shift_B = shift_B.to(waves_BS.device)
    # A rotation is a window into the clip said twice: no index for each sample, which would be larger than the sound.
    windows = torch.cat([waves_BS, waves_BS], 1).unfold(1, samples, 1)
    return windows[torch.arange(clips, device=waves_BS.device), -shift_B % samples]


def _with_noise(
    waves_BS: torch.Tensor, augment: Augment, noise_NS: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Some clips with a background at a drawn ratio of mean powers.

    A silent clip has no level to hold a background against, and a silent background none to be brought to: such pairs
    stay as the clip was.
    """
    clips = len(waves_BS)
    which_B = torch.randint(len(noise_NS), (clips,), generator=generator, device=generator.device)
    noise_BS = noise_NS[which_B.to(waves_BS.device)]
    snr_db_B = _uniform(waves_BS, *augment.noise_snr_db, generator)
    mixed_B = _uniform(waves_BS, 0, 1, generator) < augment.noise_p
    # Roots before the quotient: that of two powers can leave float32's range where that of two levels does not.
    level_B, noise_level_B = waves_BS.square().mean(1).sqrt(), noise_BS.square().mean(1).sqrt()
    weight_B = level_B / noise_level_B / _factor(snr_db_B)
    weight_B = torch.where(mixed_B & (noise_level_B > 0), weight_B, 0)
    return torch.addcmul(waves_BS, noise_BS, weight_B[:, None])


def _stripes(like: torch.Tensor, size: int, widest: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """What `count` masks hide on an axis of a length, bool [len(like), size]."""
    shape = (2, len(like), count, 1)
    wide, placed = torch.rand(shape, generator=generator, device=generator.device).to(like.device)
    width = (wide * (min(widest, size) + 1)).floor()
    start = (placed * (size - width + 1)).floor()
    place = torch.arange(size, device=like.device)
    return ((place >= start) & (place < start + width)).any(1)


def _uniform(like_BS: torch.Tensor, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """A number from low to high for each row, in the rows' dtype and on their device."""
    drawn_B = torch.rand(len(like_BS), generator=generator, device=generator.device).to(like_BS)
    return low + (high - low) * drawn_B


def _factor(level_db: torch.Tensor) -> torch.Tensor:
    """Decibels as a factor of the amplitude."""
    return 10 ** (level_db / 20)
