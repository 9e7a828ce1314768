"""Every text of a training run, embedded once.

The teacher is frozen, so a text's embedding never changes: a Ray batch job embeds each distinct text once into one
file, which every worker maps into memory: a million captions are pages of one file a node, not rows of each worker's
memory. The teacher is in no training process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from songsight.errors import UserError
from songsight.models import prompts
from songsight.store import cache, checkpoints, urls

if TYPE_CHECKING:
    from songsight.models.teacher import Teacher

TEXTS_PER_BLOCK = 4096
_BANK_FILE = "bank.npy"


@dataclass(frozen=True)
class TextPlan:
    """Which texts a run can draw, and for which row.

    Attributes:
        texts: the distinct texts, sorted.
        weights: the chance of each text type, float64 [types], summing to 1.
        choices: for each type, offsets int64 [rows + 1] and text numbers int32: row r may draw
            `numbers[offsets[r] : offsets[r + 1]]`.
        species: the distinct scientific names, sorted.
        species_of_row: int32 [rows], into `species`.
    """

    texts: list[str]
    weights: np.ndarray
    choices: list[tuple[np.ndarray, np.ndarray]]
    species: list[str]
    species_of_row: np.ndarray

    def draw(self, row: int, rng: np.random.Generator) -> int:
        """The number of a text for a row: a type by its weight, then one of the row's texts of that type."""
        offsets, numbers = self.choices[int(rng.choice(len(self.weights), p=self.weights))]
        return int(numbers[rng.integers(offsets[row], offsets[row + 1])])


def parse_weights(spec: str) -> dict[str, float]:
    """Reads `sci:1,com:2` (a bare `sci` weighs 1) into weights above 0.

    Raises:
        UserError: an unknown type, a weight that is not a number, or none above 0.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        name, _, value = part.partition(":")
        if name not in prompts.TEXT_TYPES:
            raise UserError(f"--text-types: no type {name!r} (types: {', '.join(prompts.TEXT_TYPES)})")
        try:
            weight = float(value or 1)
        except ValueError:
            raise UserError(f"--text-types: the weight of {name} should be a number (got {value!r})") from None
        if not 0 <= weight < float("inf"):
            raise UserError(f"--text-types: the weight of {name} should be 0 or more (got {value})")
        if weight:
            weights[name] = weight
    if not weights:
        raise UserError("--text-types: should give at least one type a weight above 0, such as sci:1,taxon_com:1")
    return weights


def plan(recordings: pa.Table, weights: Mapping[str, float]) -> TextPlan:
    """Lists the distinct texts that the rows of a manifest can draw.

    Args:
        recordings: a `tables.RECORDINGS` table.
        weights: by text type, above 0.
    """
    columns = ["scientific_name", "common_name", *prompts.RANKS] + (["captions"] if "caption" in weights else [])
    rows = recordings.select(columns).to_pylist()
    drawn = {kind: [prompts.texts(row, kind) for row in rows] for kind in weights}
    texts = sorted({text for lists in drawn.values() for row in lists for text in row})
    number = {text: index for index, text in enumerate(texts)}
    choices = []
    for kind in weights:
        offsets = np.cumsum([0, *map(len, drawn[kind])])
        choices.append((offsets, np.array([number[text] for row in drawn[kind] for text in row], np.int32)))
    names = [row["scientific_name"] for row in rows]
    species = sorted(set(names))
    index = {name: i for i, name in enumerate(species)}
    chances = np.array(list(weights.values()))
    return TextPlan(texts, chances / chances.sum(), choices, species, np.array([index[n] for n in names], np.int32))


class _EmbedTexts:
    """One actor's teacher."""

    def __init__(self, load: Mapping[str, Any]) -> None:
        from songsight.models import teacher

        self.teacher: Teacher = teacher.load(**load)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"row": batch["row"], "embedding": self.teacher.embed_texts(batch["text"].tolist())}


def stored(texts: Sequence[str], teacher: Teacher, folder: str, gpus: float = 0, actors: int = 1) -> str:
    """The file with the embedding of each text; made where this machine has not made it before.

    Args:
        texts: distinct texts.
        teacher: loaded.
        folder: URL that every worker reaches.
        gpus, actors: see `embed`.

    Returns:
        the URL of a `.npy` file, float32 [texts, width], named by the teacher's weights and tokenizer and the texts.
    """
    key = _key(texts, teacher)

    def make(making: str) -> None:
        shape = (len(texts), teacher.width)
        bank = np.lib.format.open_memmap(os.path.join(making, _BANK_FILE), "w+", np.float32, shape)
        embed(texts, teacher, bank, gpus, actors)
        bank.flush()

    kept = os.path.join(cache.entry("text_banks", key, make), _BANK_FILE)
    url = urls.join(folder, f"text_bank_{key}.npy")
    if not urls.exists(url):
        urls.put_file(kept, url)
    return url


def read(url: str) -> np.ndarray:
    """A bank mapped into memory, float32 [texts, width]; a remote one is copied once a node."""
    path = url
    if urls.is_remote(url):
        fs, remote = urls.filesystem(url)
        key = url.rsplit("/", 1)[-1].removeprefix("text_bank_").removesuffix(".npy")
        copy = cache.entry("text_banks", key, lambda making: fs.get_file(remote, os.path.join(making, _BANK_FILE)))
        path = os.path.join(copy, _BANK_FILE)
    return np.load(path, mmap_mode="r")


def _key(texts: Sequence[str], teacher: Teacher) -> str:
    """A hash of all that the vectors depend on; the tokenizer by what it makes of the texts."""
    digest = hashlib.sha256(f"{teacher.fingerprint} {teacher.architecture} {teacher.width}".encode())
    for start in range(0, len(texts), TEXTS_PER_BLOCK):
        some = list(texts[start : start + TEXTS_PER_BLOCK])
        digest.update("\0".join(some).encode())
        tokens = teacher.tokenizer(some[:64]).numpy()
        digest.update(f"{tokens.shape}".encode() + tokens.tobytes())
    return digest.hexdigest()[:24]


def embed(texts: Sequence[str], teacher: Teacher, bank: np.ndarray, gpus: float = 0, actors: int = 1) -> None:
    """Embeds texts: by a Ray batch job where they are many, else by the teacher at hand.

    Args:
        texts: distinct texts.
        teacher: loaded; the job's actors load it again by its name.
        bank: filled, float32 [texts, width].
        gpus: GPUs an actor takes.
        actors: how many teachers run side by side at most; as many as there is room for.
    """
    if len(texts) <= TEXTS_PER_BLOCK:
        # One block: an actor would take longer to load the teacher than to use it.
        bank[:] = teacher.embed_texts(texts)
        return
    import ray

    table = pa.table({"row": np.arange(len(texts)), "text": list(texts)})
    blocks = [table.slice(start, TEXTS_PER_BLOCK) for start in range(0, len(texts), TEXTS_PER_BLOCK)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        _EmbedTexts,
        fn_constructor_kwargs={
            "load": {"name": checkpoints.portable(teacher.name), "device": "cuda" if gpus else "cpu"}
        },
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, len(blocks))),
        num_gpus=gpus,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        bank[batch["row"]] = batch["embedding"]
