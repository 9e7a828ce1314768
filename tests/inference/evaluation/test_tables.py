from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inference.evaluation import comparison, directions, figures, files, methods, naming, probes, table
from songsight.errors import UserError
from songsight.metrics import unit
from songsight.metrics.bootstrap import Bootstrap
from songsight.metrics.retrieval import Ranked, retrieve

SPECIES, EACH, WIDTH = 12, 20, 16
NAMES = np.array([f"Genus{i // 3} epithet{i}" for i in range(SPECIES)])
RANKS = [{"scientific_name": name, "family": f"Family{i // 6}"} for i, name in enumerate(NAMES)]


def cloud(rng: np.random.Generator, centres: np.ndarray, spread: float) -> directions.Side:
    labels = np.repeat(np.arange(SPECIES), EACH)
    noise = spread * rng.standard_normal((len(labels), WIDTH))
    return directions.Side(unit(centres[labels] + noise).astype(np.float32), NAMES[labels])


def kept(ranked: dict[str, Ranked], ids: list[str], species: np.ndarray, photographs: str = "p") -> files.Kept:
    record = {"fingerprints": {"photographs": photographs}, "options": {"model": "m"}}
    return files.Kept("folder", record, files.queries_table(ranked, ids, species))


def test_a_row_has_each_measure_between_its_ends() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((SPECIES, WIDTH))
    sounds, photographs = cloud(rng, centres, 1.5), cloud(rng, centres, 1.0)
    good = retrieve(sounds.vectors, photographs.vectors, sounds.species, photographs.species)
    bad = retrieve(sounds.vectors[::-1], photographs.vectors, sounds.species, photographs.species)
    rows = table.rows({"bad": bad, "good": good}, Bootstrap(sounds.species), against="good")
    assert [row["method"] for row in rows] == ["bad", "good"]
    assert rows[1]["mAP"] == pytest.approx(good.average_precision.mean())
    assert rows[1]["recall_at_5"] == pytest.approx((good.first_rank <= 5).mean())
    means = [good.average_precision[sounds.species == name].mean() for name in NAMES]
    assert rows[1]["macro_mAP"] == pytest.approx(np.mean(means))
    for row in rows:
        for measure in table.MEASURES:
            assert row[f"{measure}_low"] <= row[measure] <= row[f"{measure}_high"]
    assert rows[0]["mAP_minus_good_species_high"] < 0
    assert rows[0]["mAP_minus_good_species_p"] < 0.05
    assert rows[1]["mAP_minus_good_p"] == 1
    shown = table.markdown(rows, {"method": "method", "mAP": "mAP", "median_rank": "rank"}, species=True)
    assert shown.splitlines()[3].count("[") == 4
    assert f"| good | {rows[1]['mAP']:.3f} [" in shown


def test_six_directions_at_three_ranks() -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((SPECIES, WIDTH))
    sides = {
        "sound": cloud(rng, centres, 0.01),
        "picture": cloud(rng, centres, 0.01),
        "text": directions.Side(unit(centres).astype(np.float32), NAMES),
    }
    labels = {rank: directions.names_at(rank, NAMES.tolist(), RANKS) for rank in directions.RANKS}
    assert labels["genus"]["Genus1 epithet4"] == "Genus1"
    rows = directions.rows(directions.ask(sides, labels), sides, 100, 0)
    assert len(rows) == 18
    assert {(row["query"], row["gallery"]) for row in rows} == {(a, b) for a in sides for b in sides if a != b}
    of = {(row["query"], row["gallery"], row["rank"]): row for row in rows}
    assert of["sound", "picture", "species"]["mAP"] == pytest.approx(1)
    assert of["text", "sound", "species"]["queries"] == SPECIES
    assert of["sound", "text", "genus"]["items"] == SPECIES
    # Relatives are not near by: at a higher rank more is asked for than the nearest.
    assert of["sound", "picture", "family"]["mAP"] < 0.9
    assert of["sound", "picture", "family"]["chance_mAP"] > of["sound", "picture", "species"]["chance_mAP"]


def test_what_has_no_name_at_a_rank_neither_asks_nor_is_asked_for() -> None:
    known = directions.names_at("family", NAMES.tolist(), RANKS[:3])
    assert sorted(known) == sorted(NAMES[:3])
    rng = np.random.default_rng(2)
    sounds, photographs = (cloud(rng, np.eye(SPECIES, WIDTH), 0.1) for _ in range(2))
    sides = {"sound": sounds, "picture": photographs}
    rows = directions.rows(directions.ask(sides, {"family": known}), sides, 50, 0)
    assert all(row["queries"] == row["items"] == 3 * EACH and row["mAP"] == 1 for row in rows)


@pytest.mark.parametrize("seed", [0, 1])
def test_random_vectors_are_at_chance_in_every_direction_and_measure(seed: int) -> None:
    """Chance of each measure and how far a random ranking strays from it, both by shuffling galleries.

    Sound asks for pictures with vectors of its own; queries of one species are independent of each other.
    """
    rng = np.random.default_rng(seed)
    sides = {name: cloud(rng, np.zeros((SPECIES, WIDTH)), 1) for name in ("sound", "picture", "text")}
    labels = {rank: directions.names_at(rank, NAMES.tolist(), RANKS) for rank in directions.RANKS}
    for row in directions.rows(directions.ask(sides, labels), sides, 20, 0):
        holds = np.array([labels[row["rank"]][name] for name in sides[row["gallery"]].species])
        asks = np.array([labels[row["rank"]][name] for name in sides[row["query"]].species])
        answers = (holds == asks[0]).sum()
        assert all((holds == name).sum() == answers for name in set(asks))  # one chance for all
        ranks = rng.permuted(np.tile(np.arange(len(holds)) < answers, (4000, 1)), axis=1)
        first = 1 + ranks.argmax(axis=1)
        places = np.arange(1, len(holds) + 1)
        precision = (np.cumsum(ranks, axis=1) / places * ranks).sum(axis=1) / answers
        assert row["chance_mAP"] == pytest.approx(precision.mean(), abs=4 * precision.std() / np.sqrt(4000))
        for measure, values in {
            "mAP": precision,
            "macro_mAP": precision,
            "recall_at_1": first <= 1,
            "recall_at_5": first <= 5,
            "recall_at_10": first <= 10,
        }.items():
            # The queries share one gallery: of 240 there are not 240 independent rankings.
            error = values.std() / np.sqrt(len(asks)) * 1.5
            assert row[measure] == pytest.approx(values.mean(), abs=4 * error + 1e-9), (row["query"], measure)
        drawn = np.median(rng.choice(first, (500, len(asks))), axis=1)
        assert abs(row["median_rank"] - np.median(first)) <= 6 * drawn.std() + 1


def test_a_real_difference_is_told_from_noise() -> None:
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((SPECIES, WIDTH))
    photographs = cloud(rng, centres, 1.0)
    sounds = [cloud(np.random.default_rng(seed), centres, spread) for seed, spread in ((4, 1.5), (5, 1.5), (6, 0.8))]
    found = [retrieve(s.vectors, photographs.vectors, s.species, photographs.species) for s in sounds]
    ids = [f"r{i}" for i in range(len(sounds[0].species))]
    a, same, better = (kept({"distilled": one}, ids, sounds[0].species) for one in found)
    rows, counts = comparison.compare(a, same, 400)
    assert {row["more_than_noise"] for row in rows} == {"no"}
    assert counts == {"recordings": len(ids), "only_a": 0, "only_b": 0}
    rows, _ = comparison.compare(a, better, 400)
    first = rows[0]
    assert first["measure"] == "mAP"
    assert first["more_than_noise"] == "yes"
    assert 0 < first["difference_low"] <= first["difference"] <= first["difference_high"]
    assert first["difference"] == pytest.approx(np.mean(found[2].average_precision - found[0].average_precision))
    assert comparison.compare(better, a, 400)[0][0]["difference"] == pytest.approx(-first["difference"])


@pytest.mark.parametrize(
    ("recordings", "species", "expected"), [(1, 1, "too few"), (5, 5, "too few"), (40, 1, "for these species")]
)
def test_few_recordings_or_species_do_not_say_yes(recordings: int, species: int, expected: str) -> None:
    """However large the difference: one recording, five, and many of one species."""
    names = NAMES[np.arange(recordings) % species]
    rng = np.random.default_rng(0)
    bad, good = (
        Ranked(some, 1 / some, np.zeros(101), np.zeros((recordings, 0), int))
        for some in (0.1 + 0.01 * rng.random(recordings), 0.9 + 0.01 * rng.random(recordings))
    )
    ids = [f"r{i}" for i in range(recordings)]
    rows, _ = comparison.compare(kept({"m": bad}, ids, names), kept({"m": good}, ids, names), 200)
    of = {row["measure"]: row for row in rows}
    assert of["mAP"]["difference"] == pytest.approx(0.8, abs=0.02)
    assert of["mAP"]["more_than_noise"] == expected
    assert np.isnan(of["mAP"]["species_p"])
    assert np.isnan(of["mAP"]["difference_species_low"])


def test_what_neither_was_asked_is_no_difference() -> None:
    """Queries without an answer are in neither side's mean, and where none has one there is no verdict."""
    rng = np.random.default_rng(1)
    names = np.repeat(NAMES, 4)
    a, b = rng.random((2, len(names)))
    a[:8], b[40:] = np.nan, np.nan
    ids = [f"r{i}" for i in range(len(names))]

    def side(values: np.ndarray) -> files.Kept:
        none = np.full(len(names), np.nan)
        asked = Ranked(values, 1 / values, np.zeros(101), np.zeros((len(names), 0), int))
        return kept({"m": asked, "none": Ranked(none, none, asked.precision, asked.nearest)}, ids, names)

    rows, _ = comparison.compare(side(a), side(b), 200)
    of = {(row["method"], row["measure"]): row for row in rows}
    assert of["m", "mAP"]["difference"] == pytest.approx(np.mean(b[8:40] - a[8:40]))
    assert of["m", "median_rank"]["a"] == pytest.approx(np.median(1 / a[8:40]))
    for measure in table.MEASURES:
        assert of["none", measure]["more_than_noise"] is None
        assert np.isnan(of["none", measure]["p"])


def test_the_other_tables_are_compared_where_both_were_asked_alike() -> None:
    rng = np.random.default_rng(2)
    names = np.repeat(NAMES, 5)
    ids = [f"r{i}" for i in range(len(names))]
    one = Ranked(rng.random(len(names)), np.ones(len(names)), np.zeros(101), np.zeros((len(names), 0), int))
    measured = {
        "zero_shot_top1.distilled": rng.random((2, len(names))) < [[0.3], [0.9]],
        "zero_shot_top1.distilled.sci": rng.random((2, len(names))) < 0.5,
        "knn.base": rng.random((2, len(names))) < 0.5,
        "linear_probe.base": rng.random((2, len(names))) < 0.5,
        "brier.base": rng.random((2, len(names))),
        "average_precision.sound.picture.genus": rng.random((2, len(names))),
        "first_rank.sound.picture.genus": rng.integers(1, 30, (2, len(names))),
        "average_precision.sound.text.genus": rng.random((2, len(names))),
        "first_rank.sound.text.genus": rng.integers(1, 30, (2, len(names))),
    }

    def side(which: int, order: np.ndarray, **prints: str) -> files.Kept:
        columns = {name: np.asarray(values[which], float)[order] for name, values in measured.items()}
        wide = pa.table({"recording_id": [ids[i] for i in order], "scientific_name": list(names[order])} | columns)
        made = kept({"distilled": one}, ids, names)
        made.record["fingerprints"] |= prints
        return replace(made, by_recording=wide)

    order = np.arange(len(names))
    a = side(0, order, texts="t", training="n")
    rows, _ = comparison.compare(a, side(1, order[::-1], texts="t", training="n"), 300)
    of = {(row["table"], row["method"], row["measure"]): row for row in rows}
    for column, key in {
        "zero_shot_top1.distilled": ("encoder", "distilled", "zero_shot_top1"),
        "zero_shot_top1.distilled.sci": ("naming", "distilled, sci", "zero_shot_top1"),
        "knn.base": ("encoder", "base", "knn"),
        "brier.base": ("encoder", "base", "brier"),
        "average_precision.sound.text.genus": ("directions", "sound finds text, genus", "mAP"),
    }.items():
        values = np.asarray(measured[column], float)
        assert of[key]["difference"] == pytest.approx(values[1].mean() - values[0].mean())
    assert of["encoder", "distilled", "zero_shot_top1"]["more_than_noise"] == "yes"
    within = np.asarray(measured["first_rank.sound.picture.genus"]) <= 5
    assert of["directions", "sound finds picture, genus", "recall_at_5"]["b"] == within[1].mean()
    assert of["directions", "sound finds picture, genus", "median_rank"]["a"] == np.median(
        measured["first_rank.sound.picture.genus"][0]
    )

    rows, _ = comparison.compare(a, side(1, order, texts="other", training="other"), 20)
    assert {(row["table"], row["method"]) for row in rows} == {
        ("table", "distilled"),
        ("directions", "sound finds picture, genus"),
    }


def test_recordings_are_paired_by_name_whatever_their_order() -> None:
    rng = np.random.default_rng(7)
    sounds, photographs = (cloud(rng, rng.standard_normal((SPECIES, WIDTH)), 1.0) for _ in range(2))
    one = retrieve(sounds.vectors, photographs.vectors, sounds.species, photographs.species)
    ids = [f"r{i}" for i in range(len(sounds.species))]
    shuffle = rng.permutation(len(ids))[:100]
    part = Ranked(one.average_precision[shuffle], one.first_rank[shuffle], one.precision, one.nearest)
    rows, counts = comparison.compare(
        kept({"distilled": one, "x": one}, ids, sounds.species),
        kept({"distilled": part, "y": part}, [ids[i] for i in shuffle], sounds.species[shuffle]),
    )
    assert counts == {"recordings": 100, "only_a": len(ids) - 100, "only_b": 0}
    assert {row["method"] for row in rows} == {"distilled"}
    assert all(row["difference"] == 0 and row["p"] == row["species_p"] == 1 for row in rows)


def test_what_is_no_pair_is_refused() -> None:
    none = Ranked(np.array([1.0]), np.array([1.0]), np.zeros(101), np.zeros((1, 0), int))
    one, species = kept({"m": none}, ["a"], np.array(["x"])), np.array(["x"])
    with pytest.raises(UserError, match="different photographs"):
        comparison.compare(one, kept({"m": none}, ["a"], species, "other"))
    with pytest.raises(UserError, match="no recording in common"):
        comparison.compare(one, kept({"m": none}, ["b"], species))
    with pytest.raises(UserError, match="no method in common"):
        comparison.compare(one, kept({"n": none}, ["a"], species))
    with pytest.raises(UserError, match="recording a is of x in folder and of y in folder"):
        comparison.compare(one, kept({"m": none}, ["a"], np.array(["y"])))


def test_scores_are_written_in_blocks_and_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SCORES_PER_BLOCK", 50)
    rng = np.random.default_rng(8)
    queries, images = (rng.integers(-3, 4, (n, 5)).astype(np.float32) for n in (13, 20))
    files.save_scores(
        str(tmp_path / "s.npz"), queries, images, {"query_species": ["é"] * 13, "image_species": ["b"] * 20}
    )
    with np.load(tmp_path / "s.npz") as kept_scores:
        np.testing.assert_array_equal(kept_scores["scores"], queries @ images.T)
        assert kept_scores["query_species"][0] == "é"
        assert kept_scores["image_species"].shape == (20,)


def test_the_methods_come_in_the_papers_order() -> None:
    rng = np.random.default_rng(9)
    vectors = {
        kind: rng.standard_normal((30, width)).astype(np.float32)
        for kind, width in (("base_pooled", 7), ("base_joint", 6), ("student_pooled", 7), ("student", 8))
    }
    vectors["student"] = unit(vectors["student"]).astype(np.float32)

    def some(rows: int, width: int) -> np.ndarray:
        return unit(rng.standard_normal((rows, width))).astype(np.float32)

    material = methods.Material(
        vectors=vectors,
        train=np.arange(20),
        queries=np.arange(20, 30),
        species_of_query=np.array([0] * 9 + [3]),
        in_gallery=3,
        base_names_SB=some(4, 6),
        teacher_names_SD=some(4, 8),
        base_texts={kind: some(4, 6) for kind in naming.TEXT_TYPES},
        teacher_texts={kind: some(4, 8) for kind in naming.TEXT_TYPES},
        train_text_ND=some(20, 8),
        log_scale=2.0,
    )
    ridge = methods.ridges(material)
    assert list(ridge) == ["text_mapping", "text_mapping_uncentred"]
    made = dict(methods.queries(material, 0.25, 0, ridge))
    assert next(iter(made)) == "random_projection"
    assert list(made)[-5:] == ["zero_shot_chain", "frozen_head", "distilled", "distilled_bridged", "ceiling"]
    for queries in made.values():
        assert queries.shape == (10, 8)
        np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(made["ceiling"][4], material.teacher_names_SD[0])
    # A species that the gallery does not have is a true species' text, and nothing that a sound is taken for.
    np.testing.assert_array_equal(made["ceiling"][9], material.teacher_names_SD[3])
    shown = material.teacher_names_SD[:3]
    assert all((chosen == shown).all(axis=1).any() for chosen in made["zero_shot_chain"])
    closer = (made["distilled_bridged"] @ shown.T).max(axis=1)
    assert (closer >= (made["distilled"] @ shown.T).max(axis=1) - 1e-6).all()


def test_an_encoder_is_judged_with_what_there_is() -> None:
    rng = np.random.default_rng(10)
    train = np.repeat(NAMES, 4)
    centres = dict(zip(NAMES, rng.standard_normal((SPECIES, WIDTH)), strict=True))
    vectors = unit(np.stack([centres[name] for name in train]) + 0.05 * rng.standard_normal((len(train), WIDTH)))
    names = unit(np.stack([centres[name] for name in NAMES]))
    who = np.array(["ann", "bob"] * (len(train) // 2), dtype=object)
    one = probes.Encoder(vectors, vectors, vectors, names, 3.0)
    heard = probes.query_results(one, probes.Labels(train, train, NAMES, who, who), 1)
    row = probes.rows({"base": heard}, Bootstrap(train, 100))[0]
    assert row["zero_shot_top1"] == row["knn"] == row["knn_other_recordists"] == row["linear_probe"] == 1
    logits = np.exp(3.0) * vectors @ names.T
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    sure, right = share.max(axis=1), NAMES[share.argmax(axis=1)] == train
    bins = np.ceil(sure * 15)
    error = sum(abs(right[bins == b].sum() - sure[bins == b].sum()) for b in set(bins)) / len(train)
    assert row["calibration_error"] == pytest.approx(error)
    assert row["calibration_error_low"] <= row["calibration_error"] <= row["calibration_error_high"]
    assert row["brier"] == pytest.approx(((share - (train[:, None] == NAMES)) ** 2).sum(axis=1).mean())
    assert row["brier_low"] <= row["brier"] <= row["brier_high"]
    nobody = np.full(len(train), None, object)
    alone = probes.Encoder(vectors[:0], vectors, vectors, names, 3.0)
    heard = probes.query_results(alone, probes.Labels(train[:0], train, NAMES, nobody[:0], nobody), 1)
    row = probes.rows({"base": heard}, Bootstrap(train, 100))[0]
    assert row["knn"] is row["knn_other_recordists"] is row["linear_probe"] is None
    assert row["zero_shot_top5"] == 1


def test_each_type_of_text_is_asked_for_by_both_models() -> None:
    rng = np.random.default_rng(11)
    asked = np.repeat(NAMES, 4)
    heard = unit(rng.standard_normal((len(asked), WIDTH)))
    texts = {kind: unit(rng.standard_normal((SPECIES, WIDTH))) for kind in naming.TEXT_TYPES}
    spaces = {"base": naming.Space(heard, texts), "distilled": naming.Space(heard[:, ::-1], texts)}
    rows = naming.rows(naming.columns(spaces, asked, NAMES), Bootstrap(asked, 50))
    assert [(row["encoder"], row["text_type"]) for row in rows] == [
        (name, kind) for name in spaces for kind in ("sci", "com", "taxon", "sci_com", "taxon_com")
    ]
    for row in rows:
        scores = spaces[row["encoder"]].audio_QD @ texts[row["text_type"]].T
        for k in (1, 5):
            best = NAMES[np.argsort(-scores, axis=1)[:, :k]]
            assert row[f"zero_shot_top{k}"] == (best == asked[:, None]).any(axis=1).mean()
            assert row[f"zero_shot_top{k}_low"] <= row[f"zero_shot_top{k}"] <= row[f"zero_shot_top{k}_high"]


def test_relatives_lie_together_in_the_pictures() -> None:
    ranks = {
        "B b": {"order": "Z", "family": "F"},
        "A a": {"order": "Y", "family": "G"},
        "C c": {"order": "Y", "family": "E"},
        "D d": {},
    }
    assert figures.taxonomic_order(["A a", "B b", "C c", "D d", "A a"], ranks) == ["C c", "A a", "B b", "D d"]
    picture = figures.png(figures.family_confusion(np.array(["E", "G", ""]), np.array(["E", "E", "E"]), ["E", "G"]))
    assert picture.startswith(b"\x89PNG")
