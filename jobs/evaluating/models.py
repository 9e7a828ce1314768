"""The models of an evaluation: the student, the model that it came from, and the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers import AutoTokenizer, ClapModel

from inference.evaluation import embed
from inference.evaluation.methods import Models
from inference.match.gallery import Gallery
from jobs.shared import cluster, progress
from songsight.audio.clips import Clips
from songsight.errors import UserError
from songsight.models import student, teacher
from songsight.models.student import Base, Student
from songsight.store import checkpoints

TEXTS_PER_BATCH = 256


@dataclass(frozen=True)
class Names:
    """Which models, as the user names them: folders, URLs or registered ones.

    Attributes:
        model: the student.
        base, teacher: None for those that the student, or the gallery, says it was made with.
    """

    model: str
    base: str | None
    teacher: str | None


@dataclass(frozen=True)
class Loaded:
    """The loaded models.

    Attributes:
        student, student_at: the student, and its name for actors on other nodes.
        base: the audio half of the model that it came from.
        student_name, base_name: what the user calls the two, for error lines.
        texts: the text towers of that model and the teacher.
        fingerprints: of the weights: `teacher`, `model` and `base`.
        actors: encoders side by side; None for as many as the cluster has room for.
    """

    student: Student
    student_at: str
    base: Base
    student_name: str
    base_name: str
    texts: Models
    fingerprints: dict[str, str]
    actors: int | None

    def embed(self, clips: Clips, count: int, what: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Embeds clips by a Ray job, with a line of progress.

        Args:
            clips: to embed.
            count: how many there are.
            what: the clips are, in the plural.

        Returns:
            see `embed.embed_recordings`.
        """
        gpus_each = min(1, cluster.gpus())
        actors = self.actors or cluster.slots(gpus_each)
        bar = progress.Progress(what, count)
        embedded = embed.embed_recordings(clips, count, self.student_at, self.base, actors, gpus_each, bar.update)
        bar.close()
        return embedded


def load(names: Names, gallery: Gallery | None, teacher_of: Literal["gallery", "model"], actors: int | None) -> Loaded:
    """Loads the models and checks that they belong together.

    Args:
        names: of the models.
        gallery: that the teacher has embedded; None for none.
        teacher_of: what says where the teacher is, if its name is not given.
        actors: see `Loaded`.

    Raises:
        UserError: a model cannot be loaded, or the gallery or the teacher is not the student's.
    """
    student_at = checkpoints.portable(names.model)
    loaded = student.load(student_at)
    config = loaded.config
    if gallery is not None:
        gallery.check_teacher(config.embedding_width, config.teacher_fingerprint, "--gallery", f"--model {names.model}")
    base_name = names.base or config.base_model
    base = student.load_base(base_name, "--base")[0]
    base_text = text_tower(base, base_name)
    known = gallery.info["teacher"] if gallery is not None and teacher_of == "gallery" else config.teacher
    taught_by = teacher.load(names.teacher or known, option="--teacher")
    if taught_by.fingerprint != config.teacher_fingerprint:
        raise UserError(f"--teacher {taught_by.name}: has other weights than the {teacher_of}'s teacher")
    fingerprints = {
        "teacher": taught_by.fingerprint,
        "model": checkpoints.fingerprint(loaded),
        "base": checkpoints.fingerprint(base),
    }
    texts = Models(base_text, taught_by.embed_texts, float(loaded.log_scale), float(base.logit_scale_a))
    return Loaded(loaded, student_at, Base(base), names.model, base_name, texts, fingerprints, actors)


def text_tower(base: ClapModel, name: str) -> Callable[[list[str]], np.ndarray]:
    """The base model's text tower as a function: texts → float32 [texts, joint width].

    Raises:
        UserError: there is no tokenizer beside the model.
    """
    folder = checkpoints.local_folder(name, "--base")
    with checkpoints.explained("--base", folder, "a ClapModel checkpoint with its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def embed_texts(texts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = texts[start : start + TEXTS_PER_BATCH]
            tokens = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
            pooled = base.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            parts.append(base.text_projection(pooled).float())
        return torch.cat(parts).numpy()

    return embed_texts
