"""What `songsight annotate` has to know of its model and gallery, with the options that depend on them checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from inference.archive import spans
from inference.match import gallery
from jobs.annotating import species as naming
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.models import clap, precision, student
from songsight.models import encoder as encoders
from songsight.store import checkpoints

if TYPE_CHECKING:
    from inference.match.calibration import Calibration
    from jobs.annotate import Options


@dataclass(frozen=True)
class Prepared:
    """A checked run.

    Attributes:
        model: where it lies, a folder or URL that other machines can open too.
        encoder: see `naming.describe`.
        windows: how recordings are cut.
        band_hz: the highest frequency that the encoder hears.
        names: the species that an untouched ClapModel may name; None for a distilled model.
        species: the only scientific names that may be hit; None for all of the gallery.
        fingerprints: hashes of what goes in.
        made_with: see `naming.scored_with`.
        calibrated: what turns scores into probabilities, where there is such.
        precision: of the encoder: fp32 or bf16.
    """

    model: str
    encoder: dict[str, Any]
    windows: spans.Windows
    band_hz: float
    names: naming.Names | None
    species: tuple[str, ...] | None
    fingerprints: dict[str, str]
    made_with: dict[str, Any]
    calibrated: Calibration | None
    precision: str


def prepare(options: Options) -> Prepared:
    """Loads the model and the gallery once.

    Raises:
        UserError: one of them cannot be read, they do not belong together, or an option does not go with them.
    """
    assert options.model
    model_at = checkpoints.portable(options.model)
    model: student.Student | clap.ClapEncoder
    names: naming.Names | None = None
    species = None
    if encoders.method(model_at) == "zero-shot":
        naming.check_zero_shot(options)
        model, text = clap.load(model_at)
        shown = gallery.read(options.gallery, thumbnails=False)
        names = naming.zero_shot(options.species_list, shown, text)
        opts.note(f"--model {options.model} is no distilled one: its own texts name the species (zero-shot)")
    else:
        model = student.load(model_at)
        shown = gallery.read(options.gallery, thumbnails=False)
        shown.check_teacher(
            model.config.embedding_width, model.config.teacher_fingerprint, "--gallery", f"--model {options.model}"
        )
        species = naming.of_gallery(options.species_list, shown) if options.species_list else None
    encoder = naming.describe(model, model_at)
    clip_s = model.mel.clip_s
    window_s = options.window_s or clip_s
    if window_s > clip_s:
        raise UserError(f"--window-s {window_s:g} is longer than the {clip_s:g} s that {options.model} hears at once")
    least_s = model.mel.fft_size / model.mel.sample_rate_hz
    if window_s < least_s:
        raise UserError(f"--window-s should be at least {least_s:.3g}, one frame of {options.model} (got {window_s:g})")
    fingerprints = {"model": encoders.fingerprint(model), "gallery": shown.fingerprint()}
    if names:
        fingerprints["names"] = names.fingerprint()
    naming.check_range(options, fingerprints)
    made_with = naming.scored_with(options, encoder, shown, fingerprints)
    return Prepared(
        model=model_at,
        encoder=encoder,
        windows=spans.Windows(window_s, options.hop_s or window_s),
        band_hz=model.mel.band_hz,
        names=names,
        species=species,
        fingerprints=fingerprints,
        made_with=made_with,
        calibrated=naming.calibrated(options, made_with, fingerprints),
        precision=precision.resolve(options.precision, bool(options.gpus_per_actor) or torch.cuda.is_available()),
    )
