import numpy as np
import pytest

from demoworld.species import SONG_TRAITS, VISUAL_TRAITS, Species, make_species
from songsight.errors import UserError
from songsight.models import prompts

SEEDS = range(6)


def distances(traits: np.ndarray) -> np.ndarray:
    return np.linalg.norm(traits[:, None] - traits[None], axis=-1)


def within_genus(species: list[Species], traits: np.ndarray) -> np.ndarray:
    """Traits less their genus's mean: what is a species' own, not its ancestors'."""
    genera = np.array([one.genus for one in species])
    return np.stack([trait - traits[genera == genus].mean(axis=0) for genus, trait in zip(genera, traits, strict=True)])


def test_same_seed_same_species_and_another_seed_others():
    assert make_species(24, seed=3) == make_species(24, seed=3)
    assert make_species(24, seed=3)[0].looks != make_species(24, seed=4)[0].looks


@pytest.mark.parametrize("count", [1, 12, 60, 200])
def test_names_are_distinct_and_ranks_nest(count):
    species = make_species(count, seed=1)
    assert len({one.scientific_name for one in species}) == len({one.common_name for one in species}) == count
    family_of_genus = {one.genus: one.family for one in species}
    order_of_family = {one.family: one.order for one in species}
    for one in species:
        assert one.scientific_name == f"{one.genus} {one.species}"
        assert family_of_genus[one.genus] == one.family
        assert order_of_family[one.family] == one.order
        assert len(one.looks) == VISUAL_TRAITS
        assert len(one.song) == SONG_TRAITS
        assert all(0 < trait < 1 for trait in one.looks + one.song)


def test_sixty_species_are_five_orders_of_two_families_of_two_genera_of_three():
    species = make_species(60, seed=0)
    assert [len({getattr(one, rank) for one in species}) for rank in ("order", "family", "genus")] == [5, 10, 20]


def test_more_species_than_names_is_refused():
    with pytest.raises(UserError, match="names for"):
        make_species(10_000)


def test_prompts_read_the_name_columns():
    one = make_species(1, seed=0)[0]
    assert prompts.text(one.names(), "taxon") == (
        f"Animalia Chordata Aves {one.order} {one.family} {one.genus} {one.species}"
    )


@pytest.mark.parametrize("kind", ["looks", "song"])
def test_relatives_are_alike(kind):
    ratios = []
    for seed in SEEDS:
        species = make_species(60, seed)
        apart = distances(np.array([getattr(one, kind) for one in species]))
        genus, order = (np.array([getattr(one, rank) for one in species]) for rank in ("genus", "order"))
        sisters = (genus[:, None] == genus[None]) & ~np.eye(60, dtype=bool)
        strangers = order[:, None] != order[None]
        ratios.append(apart[sisters].mean() / apart[strangers].mean())
        # Alike, but told apart: no two sisters share their traits.
        assert apart[sisters].min() > 0.25 * apart[strangers].mean()
    assert np.mean(ratios) < 0.75


def test_looks_say_nothing_about_song():
    correlations = []
    upper = np.triu_indices(60, 1)
    for seed in SEEDS:
        species = make_species(60, seed)
        looks = within_genus(species, np.array([one.looks for one in species]))
        songs = within_genus(species, np.array([one.song for one in species]))
        correlations.append(np.corrcoef(distances(looks)[upper], distances(songs)[upper])[0, 1])
    # 6 seeds of 1,770 pairs of 60 species: chance alone gives about 0.03 for the mean.
    assert abs(np.mean(correlations)) < 0.12
