from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.errors import UserError
from distill.metrics import unit
from distill.metrics.bootstrap import Bootstrap
from distill.metrics.retrieval import Ranked, retrieve
from inference.evaluation import comparison, directions, encoder, figures, files, methods, table

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
    rows = directions.rows(sides, labels, 100, 0)
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
    rows = directions.rows({"sound": sounds, "picture": photographs}, {"family": known}, 50, 0)
    assert all(row["queries"] == row["items"] == 3 * EACH and row["mAP"] == 1 for row in rows)


@pytest.mark.parametrize("seed", [0, 1])
def test_random_vectors_are_at_chance_in_every_direction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides = {name: cloud(rng, np.zeros((SPECIES, WIDTH)), 1) for name in ("sound", "picture", "text")}
    labels = {rank: directions.names_at(rank, NAMES.tolist(), RANKS) for rank in directions.RANKS}
    for row in directions.rows(sides, labels, 200, 0):
        margin = 2 * (row["mAP_species_high"] - row["mAP_species_low"]) / 2
        assert row["mAP"] == pytest.approx(row["chance_mAP"], abs=margin)


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
        asked=np.arange(20, 30),
        species_of_query=np.zeros(10, int),
        base_names_SB=some(3, 6),
        teacher_names_SD=some(3, 8),
        base_texts_TB=some(9, 6),
        teacher_texts_TD=some(9, 8),
        train_text_ND=some(20, 8),
        log_scale=2.0,
    )
    made = dict(methods.queries(material, 0.25, 0))
    assert next(iter(made)) == "random_projection"
    assert list(made)[-5:] == ["zero_shot_chain", "frozen_head", "distilled", "distilled_bridged", "ceiling"]
    for queries in made.values():
        assert queries.shape == (10, 8)
        np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(made["ceiling"][4], material.teacher_names_SD[0])
    closer = (made["distilled_bridged"] @ material.teacher_names_SD.T).max(axis=1)
    assert (closer >= (made["distilled"] @ material.teacher_names_SD.T).max(axis=1) - 1e-6).all()


def test_an_encoder_is_judged_with_what_there_is() -> None:
    rng = np.random.default_rng(10)
    train = np.repeat(NAMES, 4)
    centres = dict(zip(NAMES, rng.standard_normal((SPECIES, WIDTH)), strict=True))
    vectors = unit(np.stack([centres[name] for name in train]) + 0.05 * rng.standard_normal((len(train), WIDTH)))
    names = unit(np.stack([centres[name] for name in NAMES]))
    who = np.array(["ann", "bob"] * (len(train) // 2), dtype=object)
    one = encoder.Encoder(vectors, vectors, vectors, names, 3.0)
    row = encoder.rows({"base": one}, encoder.Labels(train, train, NAMES, who, who), Bootstrap(train, 100), 1)[0]
    assert row["zero_shot_top1"] == row["knn"] == row["knn_other_recordists"] == row["linear_probe"] == 1
    assert 0 < row["calibration_error"] < 1
    assert row["brier_low"] <= row["brier"] <= row["brier_high"]
    nobody = np.full(len(train), None, object)
    alone = encoder.Encoder(vectors[:0], vectors, vectors, names, 3.0)
    row = encoder.rows(
        {"base": alone}, encoder.Labels(train[:0], train, NAMES, nobody[:0], nobody), Bootstrap(train), 1
    )[0]
    assert row["knn"] is row["knn_other_recordists"] is row["linear_probe"] is None
    assert row["zero_shot_top5"] == 1


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
