"""What an evaluation looks like: curves, a similarity heat map, which family is taken for which."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from songsight.metrics.retrieval import RECALL_LEVELS, Ranked
from songsight.store.tables import RANKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_FAMILIES = 40
_MOST_NAMED = 80  # more names than these would lie over each other
_INK = "#22211f"
_COLOURS = {"distilled": "#1b6e3c", "distilled_bridged": "#3fae6a", "ceiling": "#22211f", "zero_shot_chain": "#c8862a"}
_BASELINES = ("#a9a59d", "#1f5fa8", "#7fb0e0", "#a3327d", "#dd8fc4", "#7a63b0")


def precision_recall(ranked: Mapping[str, Ranked]) -> Figure:
    """Interpolated precision at each recall, mean over queries (`Ranked.precision`), a line a method."""
    figure, axes = _new(7.2, 4.6)
    baselines = iter(_BASELINES * 2)
    for name, one in ranked.items():
        strong = name in ("distilled", "distilled_bridged", "ceiling")
        colour = _COLOURS.get(name) or next(baselines)
        dashes = "--" if name == "ceiling" else "-"
        axes.plot(RECALL_LEVELS, one.precision, dashes, color=colour, lw=2.4 if strong else 1.4, label=_words(name))
    axes.set(xlabel="recall", ylabel="interpolated precision", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def taxonomic_order(species: Sequence[str] | np.ndarray, rank_of: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Species sorted so that relatives lie together: by each rank from kingdom down to genus, then by name."""
    return sorted(
        set(species),
        key=lambda name: [str(rank_of.get(name, {}).get(rank) or "~") for rank in RANKS[:-1]] + [name],
    )


def similarity(
    queries_QD: np.ndarray,
    images_ND: np.ndarray,
    query_species: np.ndarray,
    image_species: np.ndarray,
    rank_of: Mapping[str, Mapping[str, Any]],
) -> Figure:
    """Mean cosine of a species' sounds and another's photographs; rows and columns in taxonomic order."""
    from matplotlib.colors import TwoSlopeNorm

    order = [name for name in taxonomic_order(query_species, rank_of) if name in set(image_species)]
    sounds, pictures = (_means(*some, order) for some in ((queries_QD, query_species), (images_ND, image_species)))
    cosine_SS = sounds @ pictures.T
    side = min(11, 3.2 + 0.11 * len(order))
    figure, axes = _new(side + 1.3, side)
    middle = float(cosine_SS.mean())
    spread = max(1e-6, float(np.abs(cosine_SS - middle).max()))
    norm = TwoSlopeNorm(middle, middle - spread, middle + spread)
    picture = axes.imshow(cosine_SS, cmap="PiYG", norm=norm, interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.7, label="mean cosine")
    _rules(axes, [str(rank_of.get(name, {}).get("family") or "") for name in order])
    axes.set(xlabel="photographs of", ylabel="sounds of")
    _names(axes, order)
    return figure


def family_confusion(found_family: np.ndarray, own_family: np.ndarray, order: Sequence[str]) -> Figure:
    """Which family the nearest photograph is of, as shares of each family's recordings.

    Args:
        found_family, own_family: [queries]; those without a family ("") are left out.
        order: the families in taxonomic order; at most `MOST_FAMILIES` of them are drawn, the most frequent ones, and
            the rest together.
    """
    known = (own_family != "") & (found_family != "")
    many = Counter(own_family[known].tolist()) + Counter(found_family[known].tolist())
    kept = {name for name, _ in many.most_common(MOST_FAMILIES)}
    names = [name for name in order if name in kept]
    if set(many) - kept:
        names.append("others")
    number = {name: i for i, name in enumerate(names)}
    rest = len(names) - 1
    counts = np.zeros((len(names), len(names)))
    for own, found in zip(own_family[known], found_family[known], strict=True):
        counts[number.get(own, rest), number.get(found, rest)] += 1
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(11, 3.2 + 0.26 * len(names))
    figure, axes = _new(side + 1.3, side)
    picture = axes.imshow(share, cmap="BuGn", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.7, label="share of the recordings")
    if len(names) <= 24:
        for i, j in zip(*np.nonzero(share >= 0.005), strict=True):
            ink = "white" if share[i, j] > 0.6 else _INK
            axes.text(j, i, f"{share[i, j]:.2f}".lstrip("0"), ha="center", va="center", fontsize=7, color=ink)
    axes.set(xlabel="family of the nearest photograph", ylabel="family that sings")
    _names(axes, names)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a picture."""
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=130, bbox_inches="tight", facecolor="white")
    return sink.getvalue()


def _new(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # not pyplot: figures of pyplot are kept until they are closed

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _means(vectors_ND: np.ndarray, species: np.ndarray, order: Sequence[str]) -> np.ndarray:
    """The mean vector of each species: float64 [species, width]. The mean of cosines is the product of the means."""
    number = {name: i for i, name in enumerate(order)}
    kept = np.array([name in number for name in species])
    places = np.array([number[name] for name in species[kept]], dtype=np.int64)
    sums = np.zeros((len(order), vectors_ND.shape[1]))
    np.add.at(sums, places, vectors_ND[kept])
    return sums / np.bincount(places, minlength=len(order))[:, None]


def _rules(axes: Any, families: Sequence[str]) -> None:
    """Thin lines between families."""
    for place in range(1, len(families)):
        if families[place] != families[place - 1]:
            axes.axhline(place - 0.5, color=_INK, lw=0.4, alpha=0.5)
            axes.axvline(place - 0.5, color=_INK, lw=0.4, alpha=0.5)


def _names(axes: Any, names: Sequence[str]) -> None:
    if len(names) > _MOST_NAMED:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    size = 7 if len(names) <= 40 else 5.5
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0)


def _words(name: str) -> str:
    return name.replace("_", " ")
