"""Which species a run may name, by the gallery, `--species-list` and the kind of model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.shared import options as opts
from songsight.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from inference.match.calibration import Calibration
    from inference.match.gallery import Gallery
    from songsight.models.clap import TextTower


@dataclass(frozen=True)
class Names:
    """The species that an untouched ClapModel names.

    Attributes:
        species: (scientific name, common name where it is known), sorted.
        vectors_SD: the model's own, float32 [species, joint width].
    """

    species: list[tuple[str, str | None]]
    vectors_SD: np.ndarray

    def fingerprint(self) -> str:
        """A hash of names and vectors: 16 hex digits of SHA-256."""
        digest = hashlib.sha256(repr(self.species).encode())
        digest.update(self.vectors_SD.tobytes())
        return digest.hexdigest()[:16]

    def keep(self, out: str, run_id: str) -> str:
        """Writes them where a run's annotators find them, and returns the URL."""
        from inference.match import zero_shot
        from songsight.store import tables, urls

        url = urls.join(urls.absolute(out), ".state", run_id, "names.parquet")
        tables.write_table(url, zero_shot.names_table(self.species, self.vectors_SD))
        return url


def check_zero_shot(options: Any) -> None:
    """Raises UserError where an option does not go with an untouched ClapModel."""
    if options.score != "max":
        raise UserError(f"--score {options.score}: an untouched ClapModel scores by its texts; leave it out")


def zero_shot(path: str | None, shown: Gallery, text: TextTower) -> Names:
    """The species of `--species-list`, with a photograph or without, or else all of the gallery.

    Raises:
        UserError: no such list, or an empty one.
    """
    common: dict[str, str | None] = dict(
        zip(shown.names["scientific_name"].to_pylist(), shown.names["common_name"].to_pylist(), strict=True)
    )
    species = common
    if path:
        listed = read_list(path)
        if not listed:
            raise UserError(f"--species-list {path}: names no species")
        species = {name: said or common.get(name) for name, said in listed.items()}
        if missing := sorted(set(listed) - set(shown.species)):
            opts.note(f"{len(missing)} of {len(listed)} listed species have no photograph, such as {missing[0]}")
    ordered = sorted(species.items())
    return Names(ordered, text.names(ordered))


def of_gallery(path: str, shown: Gallery) -> tuple[str, ...]:
    """The names of `--species-list` that the gallery shows.

    Raises:
        UserError: no such file, or none of its species is in the gallery.
    """
    wanted = read_list(path)
    known = set(shown.species)
    found = tuple(sorted(name for name in wanted if name in known))
    if not found:
        raise UserError(f"--species-list {path}: none of its {len(wanted)} names is a species of the gallery")
    if missing := sorted(set(wanted) - known):
        opts.note(f"{len(missing)} of {len(wanted)} listed species have no photograph, such as {missing[0]}")
    return found


def read_list(path: str) -> dict[str, str | None]:
    """A list's scientific names, and the common names that it gives (BirdNET's `Genus epithet_Common Name`).

    Raises:
        UserError: no such file.
    """
    from songsight.store import urls

    if not urls.exists(path):
        raise UserError(f"--species-list: no such file: {path}")
    listed: dict[str, str | None] = {}
    for line in urls.read_bytes(path).decode("utf-8-sig", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, common = line.partition("_")
            listed.setdefault(name.strip(), common.strip() or None)
    return listed


def scored_with(
    options: Any, encoder: dict[str, Any], shown: Gallery, fingerprints: dict[str, str], vectors: str = "float"
) -> dict[str, Any]:
    """What decides a hit's score: scores of runs that differ in it mean different things.

    Args:
        options: of `songsight annotate`.
        encoder: see `describe`.
        shown: the gallery.
        fingerprints: of the run.
        vectors: `binary` where hits are matched from sign codes.
    """
    zero_shot = encoder["method"] == "zero-shot"
    return {
        "model": fingerprints["model"],
        "gallery": shown.scoring_fingerprint,
        "names": fingerprints.get("names"),
        "score": options.score,
        "bridge": 0.0 if zero_shot else options.bridge,
        "vectors": vectors,
        "range": fingerprints.get("range"),
    }


def check_range(options: Any, fingerprints: dict[str, str]) -> None:
    """Checks `--range` before anything is written; its hash goes among the fingerprints.

    Raises:
        UserError: the table cannot be used, or none of its cells holds `--latitude` and `--longitude`.
    """
    if options.range is None:
        return
    from inference.match.ranges import Ranges
    from songsight.store import urls

    ranges = Ranges(options.range, ())
    if options.latitude is not None and ranges.cell(options.latitude, options.longitude) is None:
        raise UserError(
            f"--range {options.range}: no cell holds --latitude {options.latitude:g} --longitude {options.longitude:g}"
        )
    fingerprints["range"] = hashlib.sha256(urls.read_bytes(options.range)).hexdigest()[:16]


def calibrated(options: Any, made_with: dict[str, Any], fingerprints: dict[str, str]) -> Calibration | None:
    """The run's calibration, its hash among the fingerprints; None without.

    Raises:
        UserError: there is none at `--calibration`, or it was fitted to other scores.
    """
    if options.calibration is None:
        return None
    from inference.match import calibration
    from songsight.store import urls

    found = calibration.read(options.calibration)
    found.check(made_with)
    if found.top_k < options.top_k:
        opts.note(
            f"--calibration: was fitted to each window's {found.top_k} best species; of the {options.top_k} asked for "
            "the further ones may be less probable than it says"
        )
    fingerprints["calibration"] = hashlib.sha256(urls.read_bytes(options.calibration)).hexdigest()[:16]
    return found


def describe(model: Any, name: str) -> dict[str, Any]:
    """What `run.json` says of a model: name, width, method, the teacher's fingerprint, temperature."""
    from songsight.models.student import Student

    if isinstance(model, Student):
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
