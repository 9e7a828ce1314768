"""What windows are matched with: model and gallery, loaded once, and the options that depend on them, checked."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from inference.annotate.annotator import Settings
from inference.annotate.ledger import Ledger
from inference.annotate.source import Source
from inference.archive.spans import Windows
from inference.match import calibration, gallery
from inference.match.calibration import Calibration
from inference.match.gallery import Gallery
from inference.match.ranges import Ranges
from inference.match.scoring import Scoring
from jobs.annotating import species as naming
from jobs.annotating.options import Matching, Recordings
from jobs.shared import options as opts
from songsight.errors import UserError
from songsight.models import clap, precision, student
from songsight.models import encoder as encoders
from songsight.store import checkpoints, urls


@dataclass(frozen=True)
class Inputs:
    """What goes into a run besides its recordings.

    Attributes:
        matching: the options that it was checked with.
        encoder: what `run.json` says of the model: `model`, `method`, `width`, `teacher_fingerprint`, `temperature`.
        windows: how recordings are cut.
        names: the species that an untouched ClapModel may name; None for a distilled model.
        species: the only scientific names that may be hit; None for all of the gallery.
        fingerprints: hashes of what goes in.
        scored_with: what decides a hit's score: scores of runs that differ in it mean different things.
        calibrated: what turns scores into probabilities, where there is such.
        band_hz: the highest frequency that the encoder hears; 0 where none is at work.
        precision: of the encoder: fp32 or bf16; None where none is at work.
    """

    matching: Matching
    encoder: dict[str, Any]
    windows: Windows
    names: naming.Names | None
    species: tuple[str, ...] | None
    fingerprints: dict[str, str]
    scored_with: dict[str, Any]
    calibrated: Calibration | None
    band_hz: float = 0.0
    precision: str | None = None

    def settings(self, state: Ledger, archive: str, batch_size: int) -> Settings:
        """What actors on a CPU are told.

        Args:
            state: of the run.
            archive: URL of the recordings.
            batch_size: windows in one pass.
        """
        how = self.matching
        scoring = Scoring(
            score=how.score,
            bridge=self.scored_with["bridge"],
            temperature=self.encoder["temperature"],
            method=self.encoder["method"],
            calibration=self.calibrated,
            min_probability=how.min_probability or 0.0,
            range=urls.absolute(how.range) if how.range else None,
            place=(how.latitude, how.longitude),
        )
        return Settings(
            run_id=state.run_id,
            archive=archive,
            out=state.out,
            model=self.encoder["model"],
            gallery=urls.absolute(how.gallery),
            windows=self.windows,
            top_k=how.top_k,
            min_score=how.min_score,
            species=self.species,
            batch_size=batch_size,
            device="cpu",
            threads=1,
            scoring=scoring,
            precision=self.precision or "fp32",
        )

    def with_names(self, settings: Settings, state: Ledger) -> Settings:
        """The settings with the names of an untouched ClapModel, written where annotators find them."""
        if self.names is None:
            return settings
        scoring = dataclasses.replace(settings.scoring, names=self.names.keep(state))
        return dataclasses.replace(settings, scoring=scoring)


def of_model(recordings: Recordings, matching: Matching, gpus: float | None) -> Inputs:
    """Loads a model, and the gallery that it is to be matched with.

    Args:
        recordings: with the model's name.
        matching: with the gallery's.
        gpus: of each annotator, where that was given.

    Raises:
        UserError: one of them cannot be read, they do not belong together, or an option does not go with them.
    """
    name = recordings.model
    at = checkpoints.portable(name)  # other machines open it too
    text: clap.TextTower | None = None
    model: student.Student | clap.ClapEncoder
    if encoders.method(at) == "zero-shot":
        _check_zero_shot(matching)
        model, text = clap.load(at)
    else:
        model = student.load(at)
    shown = gallery.read(matching.gallery, thumbnails=False)
    encoder = _describe(model, at)
    chosen = naming.choose(matching.species_list, shown, encoder, text, f"--model {name}")
    if text is not None:
        opts.note(f"--model {name} is no distilled one: its own texts name the species (zero-shot)")
    made = _checked(
        matching,
        encoder,
        _windows(recordings, model.mel.clip_s, model.mel.fft_size / model.mel.sample_rate_hz),
        shown,
        chosen,
        {"model": encoders.fingerprint(model), "gallery": shown.fingerprint()},
    )
    works_in = precision.resolve(recordings.precision, bool(gpus) or torch.cuda.is_available())
    return dataclasses.replace(made, band_hz=model.mel.band_hz, precision=works_in)


def of_source(source: Source, name: str, matching: Matching) -> Inputs:
    """Loads the gallery that a run's vectors are to be matched with; its model only where that names the species.

    Args:
        source: the run that kept the vectors.
        name: as `--from-embeddings` gave it, for error lines.
        matching: with the gallery's name.

    Raises:
        UserError: as of `of_model`.
    """
    encoder, heard_by = source.encoder, source.record.fingerprints["model"]
    shown = gallery.read(matching.gallery, thumbnails=False)
    text: clap.TextTower | None = None
    if encoder["method"] == "zero-shot":
        _check_zero_shot(matching)
        model, text = clap.load(encoder["model"], option="--from-embeddings")
        if encoders.fingerprint(model) != heard_by:
            raise UserError(f"--from-embeddings {name}: {encoder['model']} is no longer the model that heard it")
    return _checked(
        matching,
        encoder,
        Windows(source.record.window_s, source.record.hop_s),
        shown,
        naming.choose(matching.species_list, shown, encoder, text, f"the run at {name}"),
        {"model": heard_by, "gallery": shown.fingerprint(), "embeddings": source.record.run_id},
        "binary" if source.record.embeddings == "binary" else "float",
    )


def _check_zero_shot(matching: Matching) -> None:
    if matching.score != "max":
        raise UserError(f"--score {matching.score}: an untouched ClapModel scores by its texts; leave it out")


def _windows(recordings: Recordings, clip_s: float, least_s: float) -> Windows:
    """How recordings are cut: into windows no longer than the model's clip, and no shorter than `least_s`."""
    window_s = recordings.window_s or clip_s
    if window_s > clip_s:
        raise UserError(
            f"--window-s {window_s:g} is longer than the {clip_s:g} s that {recordings.model} hears at once"
        )
    if window_s < least_s:
        raise UserError(
            f"--window-s should be at least {least_s:.3g}, one frame of {recordings.model} (got {window_s:g})"
        )
    return Windows(window_s, recordings.hop_s or window_s)


def _checked(
    matching: Matching,
    encoder: dict[str, Any],
    windows: Windows,
    shown: Gallery,
    chosen: tuple[naming.Names | None, tuple[str, ...] | None],
    fingerprints: dict[str, str],
    vectors: str = "float",
) -> Inputs:
    """The inputs, with `--range` and `--calibration` checked, and their hashes among the fingerprints.

    Args:
        matching, encoder, windows, fingerprints: see `Inputs`.
        shown: the gallery.
        chosen: see `naming.choose`.
        vectors: `binary` where windows are matched by sign codes.
    """
    names, species = chosen
    fingerprints = dict(fingerprints)
    if names is not None:
        fingerprints["names"] = names.fingerprint()
    if matching.range is not None:
        _check_range(matching.range, matching)
        fingerprints["range"] = _hash(matching.range)
    scored_with = {
        "model": fingerprints["model"],
        "gallery": shown.scoring_fingerprint,
        "names": fingerprints.get("names"),
        "score": matching.score,
        "bridge": 0.0 if encoder["method"] == "zero-shot" else matching.bridge,
        "vectors": vectors,
        "range": fingerprints.get("range"),
    }
    calibrated = None
    if matching.calibration is not None:
        calibrated = _calibration(matching.calibration, matching.top_k, scored_with)
        fingerprints["calibration"] = _hash(matching.calibration)
    return Inputs(matching, encoder, windows, names, species, fingerprints, scored_with, calibrated)


def _check_range(url: str, matching: Matching) -> None:
    """Reads `--range` before anything is written.

    Raises:
        UserError: the table cannot be used, or none of its cells holds `--latitude` and `--longitude`.
    """
    ranges = Ranges(url, ())
    if matching.latitude is not None and ranges.cell(matching.latitude, matching.longitude) is None:
        raise UserError(
            f"--range {url}: no cell holds --latitude {matching.latitude:g} --longitude {matching.longitude:g}"
        )


def _calibration(url: str, top_k: int, scored_with: dict[str, Any]) -> Calibration:
    """The calibration at a URL.

    Raises:
        UserError: there is none, or it was fitted to other scores.
    """
    found = calibration.read(url)
    found.check(scored_with)
    if found.top_k < top_k:
        opts.note(
            f"--calibration: was fitted to each window's {found.top_k} best species; of the {top_k} asked for "
            "the further ones may be less probable than it says"
        )
    return found


def _hash(url: str) -> str:
    return hashlib.sha256(urls.read_bytes(url)).hexdigest()[:16]


def _describe(model: student.Student | clap.ClapEncoder, name: str) -> dict[str, Any]:
    """What `run.json` says of a model."""
    if isinstance(model, student.Student):
        return {
            "model": name,
            "method": "distilled",
            "width": model.config.embedding_width,
            "teacher_fingerprint": model.config.teacher_fingerprint,
            "temperature": model.log_scale.neg().exp().item(),
        }
    return {
        "model": name,
        "method": "zero-shot",
        "width": model.width,
        "teacher_fingerprint": None,
        "temperature": model.temperature,
    }
