"""The checks on vectors whose answers are known: no Ray, no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from inference.checks import Subject, confusable, renamed, robustness, text_types, unseen
from inference.checks.distortions import Distortion
from inference.match.gallery import Gallery
from songsight.metrics import unit
from songsight.metrics.retrieval import chance_average_precision
from songsight.models import prompts

NAMES = [
    ("Turdus merula", "Blackbird", "Turdidae"),
    ("Turdus philomelos", "Song Thrush", "Turdidae"),
    ("Turdus pilaris", "Fieldfare", "Turdidae"),
    ("Parus major", "Great Tit", "Paridae"),
    ("Strix aluco", "Tawny Owl", "Strigidae"),
]
WIDTH = 16


def by_words(texts: list[str]) -> np.ndarray:
    """A text tower that knows words: the sum of a fixed direction for each."""
    rows = []
    for text in texts:
        words = [np.random.default_rng(list(word.encode())).standard_normal(WIDTH) for word in text.split()]
        rows.append(np.sum(words, axis=0))
    return unit(np.array(rows)).astype(np.float32)


@pytest.fixture
def subject() -> Subject:
    """Sounds that lie where the text of their scientific name does, and photographs beside them."""
    names: list[dict[str, Any]] = []
    for name, common, family in NAMES:
        genus, epithet = name.split()
        row = dict.fromkeys(("scientific_name", "common_name", *prompts.RANKS))
        row |= {"scientific_name": name, "common_name": common, "family": family, "genus": genus, "species": epithet}
        names.append(row)
    rng = np.random.default_rng(0)
    centres = by_words([name for name, *_ in NAMES])

    def near(many: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
        number = np.arange(many) % len(NAMES)
        vectors = unit(centres[number] + spread * rng.standard_normal((many, WIDTH))).astype(np.float32)
        return np.array([NAMES[i][0] for i in number], dtype=object), vectors

    species, heard = near(60, 0.15)
    shown_species, shown = near(50, 0.1)
    images = pa.table({"scientific_name": pa.array(list(shown_species)), "split": ["test"] * 50})
    gallery = Gallery(
        {}, images, shown, pa.Table.from_pylist(names), by_words([row["scientific_name"] for row in names])
    )
    return Subject(
        species=species,
        vectors=dict.fromkeys(("base_pooled", "base_joint", "student_pooled", "student"), heard),
        names=names,
        name_vectors=gallery.name_vectors,
        photographs=gallery,
        base_text=by_words,
        teacher_text=by_words,
        trained_on=frozenset(name for name, *_ in NAMES[:3]),
        resamples=50,
    )


def test_each_text_type_is_asked_for_and_the_one_the_sounds_lie_at_is_best(subject: Subject) -> None:
    rows = text_types.tables(subject)["text_types"]
    assert [(row["text_type"], row["model"]) for row in rows] == [
        (kind, model) for kind in ("sci", "com", "taxon", "sci_com", "taxon_com") for model in ("base", "distilled")
    ]
    best = {row["text_type"]: row["zero_shot_top1"] for row in rows if row["model"] == "distilled"}
    assert best["sci"] > 0.95
    assert best["com"] < best["sci_com"] <= best["sci"]
    for row in rows:
        assert row["zero_shot_top1"] <= row["zero_shot_top5"] == 1
        assert row["zero_shot_top1_low"] <= row["zero_shot_top1"] <= row["zero_shot_top1_high"]
        assert ("text_to_image_mAP" in row) == (row["model"] == "distilled")


def test_congeners_are_the_only_answers_and_chance_is_one_of_them(subject: Subject) -> None:
    found = confusable.tables(subject)
    rows = {(row["among"], row["method"]): row for row in found["confusable"]}
    own = rows["congeners", "distilled"]
    assert own["chance"] == pytest.approx(1 / 3)
    assert own["queries"] == 36  # the three thrushes
    assert own["accuracy"] > 0.9
    assert rows["look-alike", "distilled"]["chance"] == 0.5
    assert rows["sound-alike", "base"]["queries"] == 60
    deaf = replace(subject, vectors={kind: np.zeros_like(some) for kind, some in subject.vectors.items()})
    for row in confusable.tables(deaf)["confusable"]:
        assert row["accuracy"] == 0  # the same of all is no answer


def test_a_species_that_no_photograph_shows_is_no_answer_among_photographs(subject: Subject) -> None:
    """Without the Fieldfare's photographs the other thrushes are told from each other, and it is not asked for."""
    keep = subject.photographs.species != "Turdus pilaris"
    fewer = replace(subject, photographs=subject.photographs.where(keep))
    rows = {(row["among"], row["method"]): row for row in confusable.tables(fewer)["confusable"]}
    own = rows["congeners", "distilled_images"]
    assert own["queries"] == 24
    assert own["chance"] == pytest.approx(1 / 2)
    scores = {
        name: (subject.vectors["student"] @ subject.photographs.vectors[subject.photographs.species == name].T).max(
            axis=1
        )
        for name in ("Turdus merula", "Turdus philomelos")
    }
    right = [
        scores[name][query] > scores[other][query]
        for name, other in (("Turdus merula", "Turdus philomelos"), ("Turdus philomelos", "Turdus merula"))
        for query in np.flatnonzero(subject.species == name)
    ]
    assert own["accuracy"] == pytest.approx(np.mean(right))
    assert rows["congeners", "distilled"]["queries"] == 36  # by text it is asked for as before
    assert rows["look-alike", "distilled_images"]["chance"] == 0.5


def test_the_pair_that_is_told_apart_worst_comes_first(subject: Subject) -> None:
    swapped = subject.vectors["student"].copy()
    merula, philomelos = (np.flatnonzero(subject.species == name) for name in ("Turdus merula", "Turdus philomelos"))
    swapped[merula] = swapped[philomelos[: len(merula)]]
    found = confusable.tables(replace(subject, vectors=dict(subject.vectors) | {"student": swapped}))
    worst = {row["species"] for row in found["confusable_pairs"] if row["accuracy"] < 0.5}
    assert worst <= {"Turdus merula"}
    assert found["confusable_pairs"][0]["species"] == "Turdus merula"


def test_unheard_species_stand_apart_with_their_exact_chance(subject: Subject) -> None:
    rows = {(row["species"], row["rank"]): row for row in unseen.tables(subject)["unseen"]}
    assert rows["heard in training", "species"]["queries"] == 36
    assert rows["never heard", "species"]["queries"] == 24
    assert rows["never heard", "species"]["of_species"] == 2
    assert rows["never heard", "species"]["chance_mAP"] == pytest.approx(chance_average_precision(10, 50))
    assert rows["never heard", "species"]["chance_top1"] == pytest.approx(1 / 5)
    assert rows["heard in training", "genus"]["chance_mAP"] == pytest.approx(chance_average_precision(30, 50))
    assert rows["heard in training", "family"]["chance_top1"] == pytest.approx(3 / 5)
    assert rows["heard in training", "genus"]["mAP"] >= rows["heard in training", "species"]["mAP"] - 0.05


def test_damage_costs_what_it_costs_recording_by_recording(subject: Subject) -> None:
    def again(distortions: tuple[Distortion, ...]) -> Iterator[dict[str, np.ndarray]]:
        for distortion in distortions:
            rng = np.random.default_rng(0)
            worse = {kind: unit(some + rng.standard_normal(some.shape)) for kind, some in subject.vectors.items()}
            worse["student"][0] = np.nan  # a recording that could not be read again
            yield dict(subject.vectors) if distortion.kind == "rate" else worse

    damages = (Distortion("rate", 48000), Distortion("noise", 0))
    clean, same, worse = robustness.tables(replace(subject, embed_distorted=again), damages)["robustness"]
    assert [row["recordings"] for row in (clean, same, worse)] == [
        "as they are",
        "sampled at 48 kHz",
        "white noise, SNR 0 dB",
    ]
    assert same["mAP"] == clean["mAP"]
    assert same["mAP_lost"] == same["mAP_lost_high"] == 0
    assert worse["mAP_lost_low"] > 0.2
    assert worse["base_zero_shot_top1"] < clean["base_zero_shot_top1"]


def test_swapped_genera_leave_no_genus_its_name_and_move_together(subject: Subject) -> None:
    for seed in range(5):
        names = renamed.swapped_genera(subject.names, seed)
        moved: dict[str, set[str]] = {}
        for before, after in zip(subject.names, names, strict=True):
            assert after["genus"] != before["genus"]
            assert after["scientific_name"] == f"{after['genus']} {before['species']}"
            assert after["family"] == before["family"]
            moved.setdefault(before["genus"], set()).add(after["genus"])
        assert all(len(new) == 1 for new in moved.values())
    assert renamed.swapped_genera(subject.names[:3], 0) == subject.names[:3]


def test_what_is_known_by_heart_is_lost_under_other_names(subject: Subject) -> None:
    synonyms = {"Turdus merula": "Merula vulgaris", "Parus major": "Parus major"}
    rows = renamed.tables(replace(subject, synonyms=synonyms))["renamed"]
    found = {(row["vocabulary"], row["text_type"], row["model"]): row for row in rows}
    assert found["as it is", "sci", "distilled"]["renamed_species"] == 0
    assert found["synonyms", "sci", "distilled"]["renamed_species"] == 1
    assert found["swapped genera", "sci", "distilled"]["renamed_species"] == 5
    before, after = (found[words, "sci", "distilled"]["zero_shot_top1"] for words in ("as it is", "synonyms"))
    assert before - 0.25 < after < before  # one species of five


@pytest.mark.parametrize("check", [text_types.tables, confusable.tables, unseen.tables, renamed.tables])
def test_a_check_says_the_same_again(subject: Subject, check: Callable[[Subject], dict]) -> None:
    np.testing.assert_equal(check(subject), check(replace(subject)))  # where NaN is NaN
