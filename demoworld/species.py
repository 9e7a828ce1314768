"""Invented species: names, ranks, and the traits that pictures and songs are made from."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import erf, sqrt

import numpy as np

from songsight.errors import UserError

VISUAL_TRAITS = 16
SONG_TRAITS = 14

# Three sister species to a genus, two genera to a family, two families to an order.
_PER_GENUS, _PER_FAMILY, _PER_ORDER = 3, 6, 12

# Share of a trait's variance that arises at each rank, from order to species.
_VARIANCE = {"order": 0.25, "family": 0.25, "genus": 0.2, "species": 0.3}

# Sister species differ in what they look and sound like more than chance would have it (character displacement):
# each is the candidate farthest from the ones before.
_CANDIDATES = 12

_STEM_HEADS = ("Vel", "Tor", "Mir", "Cal", "Ner", "Sol", "Fal", "Gyr", "Lor", "Pel", "Rud", "Zan", "Ost", "Bel", "Dor")
_STEM_TAILS = ("or", "an", "ip", "ub", "ast", "ul", "em", "ic")
_GENUS_ENDINGS = ("a", "us", "ella", "ornis")
_EPITHETS = (
    "arvalis", "montis", "lacuna", "velata", "gravis", "celer", "tacita", "sonora", "aurita", "nivalis", "brumalis",
    "fluviae", "umbrosa", "pratensa", "silvana", "palustra", "rupicola", "litoris", "vespera", "matutina", "serena",
    "agilis", "mira", "parva", "nobila", "modesta", "errans", "fidelis", "gaudens", "occulta", "placida", "robusta",
)  # fmt: skip
_HOMES = (
    "Northern", "Highland", "Saltmarsh", "Lesser", "Hermit", "Island", "Valley", "Greater", "Canyon", "Lakeside",
    "Wandering", "Mountain", "Harbour", "Twilight", "Royal", "Orchard", "Desert", "Meadow", "Coastal", "Forest",
    "Southern", "Hidden", "Early", "River", "Winter", "Laughing", "Quiet", "Giant", "Common", "Cloud",
)  # fmt: skip
_NOUN_HEADS = ("fern", "moss", "reed", "thorn", "brook", "dew", "frost", "dusk", "bramble", "heath", "gorse", "sedge")
_NOUN_TAILS = ("piper", "lark", "chat", "flit", "whistler", "wren", "tail", "finch", "crake", "thrush")


@dataclass(frozen=True)
class Species:
    """One invented bird.

    Attributes:
        scientific_name: `Genus epithet`.
        common_name: English.
        kingdom, phylum, class_, order, family, genus, species: the seven ranks; `species` is the epithet.
        looks: `VISUAL_TRAITS` numbers in (0, 1), read by `demoworld.pictures`.
        song: `SONG_TRAITS` numbers in (0, 1), read by `demoworld.songs`; independent of `looks`.
    """

    scientific_name: str
    common_name: str
    kingdom: str
    phylum: str
    class_: str
    order: str
    family: str
    genus: str
    species: str
    looks: tuple[float, ...]
    song: tuple[float, ...]

    def names(self) -> dict[str, str]:
        """The name columns of `songsight.store.tables`: scientific_name, common_name and the seven ranks."""
        return {
            "scientific_name": self.scientific_name,
            "common_name": self.common_name,
            "kingdom": self.kingdom,
            "phylum": self.phylum,
            "class": self.class_,
            "order": self.order,
            "family": self.family,
            "genus": self.genus,
            "species": self.species,
        }


def make_species(count: int = 60, seed: int = 0) -> list[Species]:
    """Invents species on one tree: three to a genus, two genera to a family, two families to an order.

    Args:
        count: how many; the last group of each rank is smaller where it does not come out even.
        seed: the same seed gives the same species.

    Raises:
        UserError: more species than there are names for.
    """
    genera = -(-count // _PER_GENUS)
    name_rng, looks_rng, song_rng = (np.random.default_rng([seed, part]) for part in range(3))
    stems = _shuffled(name_rng, [head + tail for head, tail in product(_STEM_HEADS, _STEM_TAILS)])
    nouns = _shuffled(name_rng, [head + tail for head, tail in product(_NOUN_HEADS, _NOUN_TAILS)])
    if genera > min(len(stems), len(nouns)):
        raise UserError(f"there are names for {_PER_GENUS * min(len(stems), len(nouns))} species, not {count}")
    endings = name_rng.integers(len(_GENUS_ENDINGS), size=genera)
    looks = _inherited(looks_rng, count, VISUAL_TRAITS)
    songs = _inherited(song_rng, count, SONG_TRAITS)
    made = []
    for index in range(count):
        if index % _PER_GENUS == 0:
            epithets = _shuffled(name_rng, _EPITHETS)
            homes = _shuffled(name_rng, _HOMES)
        # As in real taxonomy, a family is named after its first genus, an order after its first family.
        genus_index = index // _PER_GENUS
        family_stem = stems[index // _PER_FAMILY * (_PER_FAMILY // _PER_GENUS)]
        order_stem = stems[index // _PER_ORDER * (_PER_ORDER // _PER_GENUS)]
        genus = stems[genus_index] + _GENUS_ENDINGS[endings[genus_index]]
        epithet = epithets[index % _PER_GENUS]
        made.append(
            Species(
                scientific_name=f"{genus} {epithet}",
                common_name=f"{homes[index % _PER_GENUS]} {nouns[genus_index].capitalize()}",
                kingdom="Animalia",
                phylum="Chordata",
                class_="Aves",
                order=f"{order_stem}iformes",
                family=f"{family_stem}idae",
                genus=genus,
                species=epithet,
                looks=tuple(looks[index].tolist()),
                song=tuple(songs[index].tolist()),
            )
        )
    return made


def _shuffled(rng: np.random.Generator, words: list[str] | tuple[str, ...]) -> list[str]:
    return [words[i] for i in rng.permutation(len(words))]


def _inherited(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Traits down the tree: float64 [count, width], each uniform in (0, 1) over all species, near to its relatives'."""
    spread = {rank: sqrt(share) for rank, share in _VARIANCE.items()}
    normal = np.empty((count, width))
    for index in range(count):
        if index % _PER_ORDER == 0:
            order = spread["order"] * rng.standard_normal(width)
        if index % _PER_FAMILY == 0:
            family = order + spread["family"] * rng.standard_normal(width)
        if index % _PER_GENUS == 0:
            genus = family + spread["genus"] * rng.standard_normal(width)
        candidates = genus + spread["species"] * rng.standard_normal((_CANDIDATES, width))
        sisters = normal[index - index % _PER_GENUS : index]
        gaps = np.linalg.norm(candidates[:, None] - sisters[None], axis=-1)
        normal[index] = candidates[gaps.min(axis=1, initial=np.inf).argmax()]
    return np.vectorize(lambda x: 0.5 * (1 + erf(x / sqrt(2))))(normal)
