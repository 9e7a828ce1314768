"""Whatever `--model` names, ready to embed: a distilled student, or an untouched ClapModel (see `clap`)."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Literal

from songsight.models import precision, student
from songsight.models.clap import ClapEncoder
from songsight.models.clap import load as load_clap
from songsight.store import checkpoints

Method = Literal["distilled", "zero-shot"]


def method(name: str, option: str = "--model") -> Method:
    """What a model annotates by, told from its `config.json`.

    Raises:
        UserError: nothing is at the name.
    """
    folder = checkpoints.local_folder(name, option)
    if not os.path.isdir(folder):
        from huggingface_hub import hf_hub_download

        with checkpoints.explained(option, folder, "a model (config.json)"):
            folder = os.path.dirname(hf_hub_download(folder, "config.json"))
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        return "distilled"  # `student.load` says what is missing
    with open(path, encoding="utf-8") as handle:
        try:
            found = json.load(handle)
        except ValueError:
            return "distilled"
    return "zero-shot" if isinstance(found, dict) and found.get("model_type") == "clap" else "distilled"


def load(name: str, device: str = "cpu", precise: str = "fp32") -> student.Student | ClapEncoder:
    """Loads a model of either kind, ready to embed as fast as the device can.

    Args:
        name: folder, URL or hub name.
        device: cpu or cuda.
        precise: fp32 or bf16.

    Raises:
        UserError: no model is at the name.
    """
    if method(name) == "zero-shot":
        clap = load_clap(name, device)[0]
        precision.prepare(clap.base, precise, clap.mel.frames)
        return clap
    model = student.load(name, device)
    precision.prepare(model, precise, model.mel.frames)
    return model


def fingerprint(model: student.Student | ClapEncoder) -> str:
    """A hash of all that decides a model's vectors: its weights, how its tower is built, and the features it is fed."""
    digest = hashlib.sha256(checkpoints.fingerprint(model).encode())
    layers = [type(module).__name__ for module in model.modules()]
    digest.update(repr((tower(model).config, layers, sorted(model.mel.given.items()))).encode())
    return digest.hexdigest()[:16]


def tower(model: student.Student | ClapEncoder) -> Any:
    """The audio tower of a model of either kind."""
    return model.tower if isinstance(model, student.Student) else model.base.tower


def width(model: student.Student | ClapEncoder) -> int:
    """Numbers in a vector of a model of either kind."""
    return model.config.embedding_width if isinstance(model, student.Student) else model.width
