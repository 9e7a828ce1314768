"""The ground floor: what every part of songsight rests on. It knows neither training nor archives.

    import songsight
    vectors = songsight.load("models:/songsight@champion").embed(["a.wav", "s3://forest/b.flac"])

In: paths, URLs and names of models. Out: files, tables, samples, features, vectors and figures.

Rooms, each of which uses only those before it: `errors` and `reasons`; `store` (URLs, tables, retry, the registry,
checkpoints, the cache); `audio` (any span of any recording as samples); `models` (mel, HTS-AT, student, teacher, CLAP,
prompts, and what runs them on a CPU or GPU); `metrics`; `datasets` (published data sets to tables). `pool` spreads work
over Ray, `pictures` draws recordings beside the photographs that they find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from songsight.models.recordings import RecordingEncoder

__all__ = ["load"]


def load(name: str, device: str | None = None, precision: str = "auto") -> RecordingEncoder:
    """Loads a model that embeds recordings.

    Args:
        name: folder, URL, hub name or registered name (`models:/songsight/3`, `models:/songsight@champion`) of what
            `songsight distill` made, or of an untouched ClapModel such as `davidrrobinson/BioLingual`.
        device: cpu or cuda; the GPU if not given and there is one.
        precision: fp32, bf16 or auto, which is bf16 where the device multiplies it in hardware.

    Raises:
        songsight.errors.UserError: no model is at the name.
    """
    from songsight.models.recordings import RecordingEncoder  # imports torch

    return RecordingEncoder(name, device, precision)
