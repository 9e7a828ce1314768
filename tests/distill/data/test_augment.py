from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.data.augment import Augment, on_mels, on_waves

RATE_HZ = 100
ALL = Augment(
    gain_db=6, noise_p=0.5, noise_snr_db=(0, 20), shift_s=1, time_mask=9, time_masks=2, freq_mask=5, freq_masks=3
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


WAVES, NOISE, MELS = draw(0, 6, 400), draw(1, 3, 400), draw(2, 40, 1, 50, 20)


def waves_of(augment: Augment, seed: int = 0, waves: torch.Tensor = WAVES, noise: torch.Tensor | None = NOISE):
    return on_waves(waves, augment, RATE_HZ, noise, seeded(seed))


@pytest.mark.parametrize(
    "off",
    [Augment(), replace(ALL, gain_db=0, noise_p=0, shift_s=0, time_mask=0, freq_masks=0)],
    ids=["default", "zeros"],
)
def test_off_changes_nothing_and_draws_nothing(off: Augment) -> None:
    generator = seeded()
    assert torch.equal(on_waves(WAVES, off, RATE_HZ, NOISE, generator), WAVES)
    assert torch.equal(on_mels(MELS, off, generator), MELS)
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("noise", [None, NOISE[:0]])
def test_without_backgrounds_there_is_no_noise(noise: torch.Tensor | None) -> None:
    assert torch.equal(waves_of(Augment(noise_p=1), noise=noise), WAVES)


def test_a_seed_gives_one_result() -> None:
    assert torch.equal(waves_of(ALL, seed=1), waves_of(ALL, seed=1))
    assert not torch.equal(waves_of(ALL, seed=1), waves_of(ALL, seed=2))
    assert torch.equal(on_mels(MELS, ALL, seeded(1)), on_mels(MELS, ALL, seeded(1)))
    assert not torch.equal(on_mels(MELS, ALL, seeded(1)), on_mels(MELS, ALL, seeded(2)))


@pytest.mark.parametrize("part", [{"gain_db": 6}, {"noise_p": 1}, {"shift_s": 1}])
def test_clips_of_a_batch_are_changed_differently(part: dict[str, float]) -> None:
    same = WAVES[:1].expand(6, -1)
    changed = waves_of(Augment(**part), waves=same, noise=NOISE[:1])  # type: ignore[arg-type]
    assert len(changed.unique(dim=0)) == 6


def test_the_given_tensors_stay_as_they_were() -> None:
    waves, noise, mels = WAVES.clone(), NOISE.clone(), MELS.clone()
    on_waves(waves, replace(ALL, noise_p=1), RATE_HZ, noise, seeded())
    on_mels(mels, ALL, seeded())
    assert torch.equal(waves, WAVES)
    assert torch.equal(noise, NOISE)
    assert torch.equal(mels, MELS)


def test_gain_is_uniform_in_decibels() -> None:
    waves = draw(3, 2000, 4)
    factor = waves_of(Augment(gain_db=6), waves=waves) / waves
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    gain_db = 20 * factor[:, 0].log10()
    assert gain_db.abs().max() <= 6
    quarters = torch.histc(gain_db, 4, -6, 6)
    assert quarters.min() > 400


def snr_db(waves: torch.Tensor, mixed: torch.Tensor) -> np.ndarray:
    clip, background = waves.numpy(), (mixed - waves).numpy()
    return 10 * np.log10((clip**2).mean(1) / (background**2).mean(1))


@pytest.mark.parametrize("ratio_db", [-10.0, 0.0, 13.0])
def test_the_ratio_of_powers_is_the_one_asked_for(ratio_db: float) -> None:
    loud = WAVES * torch.tensor([1e-4, 0.01, 0.1, 1, 10, 100])[:, None]
    mixed = waves_of(Augment(noise_p=1, noise_snr_db=(ratio_db, ratio_db)), waves=loud)
    assert snr_db(loud, mixed) == pytest.approx(ratio_db)


def test_the_ratio_is_drawn_from_its_range_and_the_background_from_the_clips() -> None:
    waves = draw(4, 1000, 20)
    mixed = waves_of(Augment(noise_p=1, noise_snr_db=(5, 15)), waves=waves, noise=NOISE[:, :20])
    ratios = snr_db(waves, mixed)
    assert ratios.min() >= 5
    assert ratios.max() <= 15
    assert np.histogram(ratios, 4, (5, 15))[0].min() > 200
    cosine = torch.nn.functional.cosine_similarity((mixed - waves)[:, None], NOISE[:, :20], dim=-1)
    best = cosine.max(1)
    torch.testing.assert_close(best.values, torch.ones_like(best.values))
    assert best.indices.bincount(minlength=3).min() > 250


def test_a_background_comes_with_its_chance() -> None:
    waves = draw(5, 1000, 20)
    mixed = waves_of(Augment(noise_p=0.3), waves=waves, noise=NOISE[:, :20])
    changed = (mixed != waves).any(1)
    assert 250 < int(changed.sum()) < 350
    assert torch.equal(mixed[~changed], waves[~changed])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silence_stays_finite(dtype: torch.dtype) -> None:
    waves, noise = WAVES.to(dtype), NOISE.to(dtype)
    certain = replace(ALL, noise_p=1)
    silent = waves_of(certain, waves=torch.zeros_like(waves), noise=noise)
    assert torch.equal(silent, torch.zeros_like(waves))
    assert torch.equal(waves_of(Augment(noise_p=1), waves=waves, noise=torch.zeros_like(noise)), waves)
    both = waves_of(certain, waves=torch.zeros_like(waves), noise=torch.zeros_like(noise))
    assert torch.equal(both, torch.zeros_like(waves))
    whisper = waves_of(replace(certain, noise_snr_db=(-20, -20)), waves=waves, noise=noise * 1e-22)
    assert whisper.isfinite().all()


def test_a_shift_is_a_rotation() -> None:
    waves = torch.arange(400.0).expand(500, -1) + torch.arange(500.0)[:, None]
    shifted = waves_of(Augment(shift_s=0.05), waves=waves)
    shifts = (-(shifted[:, 0] - waves[:, 0]).long() + 200) % 400 - 200
    expected = torch.stack([row.roll(int(by)) for row, by in zip(waves, shifts, strict=True)])
    assert torch.equal(shifted, expected)
    assert shifts.unique().tolist() == list(range(-5, 6))


def test_a_shift_may_be_longer_than_the_clip() -> None:
    shifted = waves_of(Augment(shift_s=60))
    assert torch.equal(shifted.sort(1).values, WAVES.sort(1).values)


def runs(hidden: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.int().numpy(), [0]])))
    return list(edges[1::2] - edges[::2])


@pytest.mark.parametrize(("axis", "size"), [("time", 50), ("freq", 20)])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("widest", [4, 1000])
def test_masks_hide_whole_stripes_and_touch_nothing_else(axis: str, size: int, count: int, widest: int) -> None:
    masked = on_mels(MELS, Augment(**{f"{axis}_mask": widest, f"{axis}_masks": count}), seeded())
    assert masked.shape == MELS.shape
    widths = []
    for mel, ours in zip(MELS[:, 0], masked[:, 0], strict=True):
        changed = (mel != ours) if axis == "freq" else (mel != ours).T
        hidden = changed.any(0)
        assert torch.equal(changed, hidden.expand_as(changed))
        torch.testing.assert_close(ours[mel != ours], mel.mean().expand(int((mel != ours).sum())))
        found = runs(hidden)
        assert len(found) <= count
        assert sum(found) <= min(size, count * widest)
        widths += found or [0]
    if count == 1:
        assert max(widths) <= widest
        assert {0, 1, 2, 3, 4} <= set(widths) or widest > size
    assert len(set(widths)) > 3


def test_masks_reach_both_ends() -> None:
    mels = draw(6, 400, 1, 12, 3)
    changed = (on_mels(mels, Augment(time_mask=2, time_masks=1), seeded()) != mels)[:, 0, :, 0]
    assert changed.any(0).all()


def test_masks_of_both_axes_join() -> None:
    time = on_mels(MELS, Augment(time_mask=9, time_masks=2), seeded()) != MELS
    both = on_mels(MELS, Augment(time_mask=9, time_masks=2, freq_mask=5, freq_masks=3), seeded()) != MELS
    assert both[time].all()
    for hidden in both[:, 0]:
        frames, bands = hidden.all(1), hidden.all(0)
        assert torch.equal(hidden, frames[:, None] | bands[None, :])
    assert both.sum() > time.sum()


def test_features_keep_their_dtype() -> None:
    assert waves_of(ALL, waves=WAVES.float(), noise=NOISE.float()).dtype == torch.float32
    assert on_mels(MELS.float(), ALL, seeded()).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_generator_on_the_cpu_draws_the_same_for_a_gpu() -> None:
    on_gpu = on_waves(WAVES.cuda(), ALL, RATE_HZ, NOISE.cuda(), seeded())
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), waves_of(ALL))
    torch.testing.assert_close(on_mels(MELS.cuda(), ALL, seeded()).cpu(), on_mels(MELS, ALL, seeded()))
