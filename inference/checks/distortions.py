"""What happens to sound between the bird and the file, done to clips on purpose."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from songsight.audio.clips import Clips

# MPEG-1 and MPEG-2 layer III know these (ISO/IEC 11172-3 and 13818-3).
_MP3_RATES_HZ = (16000, 22050, 24000, 32000, 44100, 48000)


@dataclass(frozen=True)
class Distortion:
    """One kind of damage.

    Attributes:
        kind: `noise`, white Gaussian noise over the encoder's whole band; `rate`, the clip as a recorder of a lower
            sample rate would have it; `mp3`, encoded by LAME at a constant rate and decoded; `band`, a Butterworth
            band-pass of order 4, run forwards and backwards.
        value: the level of the clip over the noise in dB; the rate in Hz; the bit rate in kbit/s; the band's lower
            edge in Hz.
        upper_hz: the band's upper edge; none where the clip has no such frequencies.
    """

    kind: Literal["noise", "rate", "mp3", "band"]
    value: float
    upper_hz: float = 0.0

    @property
    def name(self) -> str:
        """For a table's row."""
        match self.kind:
            case "noise":
                return f"white noise, SNR {self.value:g} dB"
            case "rate":
                return f"sampled at {self.value / 1000:g} kHz"
            case "mp3":
                return f"MP3, {self.value:g} kbit/s"
        return f"band {self.value:g}–{self.upper_hz:g} Hz"

    def __call__(self, samples_S: np.ndarray, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
        """The damaged clip: float32 [samples], as long as it was.

        Args:
            samples_S: float32 [samples].
            rate_hz: samples a second.
            rng: of the noise.
        """
        match self.kind:
            case "noise":
                found = _noisy(samples_S, self.value, rng)
            case "rate":
                # A recorder of a higher rate loses nothing.
                low_hz = min(self.value, rate_hz)
                found = _resampled(_resampled(samples_S, rate_hz, low_hz), low_hz, rate_hz)
            case "mp3":
                found = _mp3(samples_S, rate_hz, self.value)
            case "band":
                found = _band(samples_S, rate_hz, self.value, self.upper_hz)
        return _fitted(found, len(samples_S))


STANDARD = (
    *(Distortion("noise", snr_db) for snr_db in (20, 10, 0, -5)),
    *(Distortion("rate", rate_hz) for rate_hz in (22050, 16000)),
    *(Distortion("mp3", kbit) for kbit in (64, 32)),
    Distortion("band", 300, 8000),  # what the microphone of a cheap recorder or a telephone passes
)


@dataclass(frozen=True)
class DistortedClips(Clips):
    """Clips that are damaged as they are read; the same for the same (seed, row).

    Row i · len(paths) + r is row r after distortion i, so that one job embeds them all.
    """

    distortions: tuple[Distortion, ...] = ()

    @classmethod
    def damage(cls, clips: Clips, rows: np.ndarray, distortions: tuple[Distortion, ...]) -> DistortedClips:
        """Some of the clips, after each of the distortions."""
        return cls(
            pa.array([str(clips.paths[row]) for row in rows], pa.large_string()),
            clips.start_s[rows],
            clips.end_s[rows],
            clips.features,
            None if clips.channels is None else clips.channels.take(pa.array(rows)),
            distortions,
        )

    def clip(self, row: int, rng: np.random.Generator | None) -> np.ndarray:
        """See `Clips.clip`."""
        which, row = divmod(row, len(self.paths))
        wave = super().clip(row, rng)
        noise = np.random.default_rng([self.features.seed, row])
        return self.distortions[which](wave, self.features.sample_rate_hz, noise)


def _noisy(samples_S: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    power = float(np.mean(np.square(samples_S, dtype=np.float64)))
    noise_S = rng.standard_normal(len(samples_S), dtype=np.float32)
    return samples_S + np.float32(np.sqrt(power / 10 ** (snr_db / 10))) * noise_S


def _resampled(samples_S: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    import soxr

    return samples_S if from_hz == to_hz else soxr.resample(samples_S, from_hz, to_hz)


def _mp3(samples_S: np.ndarray, rate_hz: int, kbit: float) -> np.ndarray:
    """Through LAME; libsndfile's decoder takes the encoder's delay away again."""
    import av
    import soundfile

    through_hz = next((rate for rate in _MP3_RATES_HZ if rate >= rate_hz), _MP3_RATES_HZ[-1])
    wave = np.ascontiguousarray(_resampled(samples_S, rate_hz, through_hz), np.float32)
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=through_hz, layout="mono")
        stream.bit_rate = round(1000 * kbit)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate = through_hz
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    sink.seek(0)
    decoded = soundfile.read(sink, dtype="float32")[0]
    return _resampled(decoded, through_hz, rate_hz)


def _band(samples_S: np.ndarray, rate_hz: int, low_hz: float, high_hz: float) -> np.ndarray:
    from scipy import signal

    edges, kind = ((low_hz, high_hz), "bandpass") if high_hz < rate_hz / 2 else (low_hz, "highpass")
    filter_ = signal.butter(4, edges, kind, fs=rate_hz, output="sos")
    return signal.sosfiltfilt(filter_, samples_S).astype(np.float32)


def _fitted(samples_S: np.ndarray, length: int) -> np.ndarray:
    """Resampling there and back may be a few samples off."""
    short = length - len(samples_S)
    whole = samples_S[:length] if short <= 0 else np.pad(samples_S, (0, short))
    return np.ascontiguousarray(whole, np.float32)
