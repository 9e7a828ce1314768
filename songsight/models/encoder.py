"""Whatever `--model` names, ready to embed: a distilled student, or an untouched ClapModel (see `clap`)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import fields
from typing import Any, Literal

from torch import nn

from songsight.models import htsat, precision, student
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
    """A hash of all that decides a model's vectors: its weights, how its tower is built, and the features it is fed.

    Results, calibrations and unfinished runs are known by it, those of 0.1 too, which hashed the names of classes as
    well: they are spelled as they were then, so that none of our classes has to keep its name or its place.

    Args:
        model: as it was loaded, before `precision.prepare`.

    Raises:
        TypeError: the model is prepared: what it has for a tower is no longer the weights that were loaded.
    """
    built = tower(model)
    if not isinstance(built, htsat.Tower):
        raise TypeError(f"a model is hashed before it is prepared; its tower is a {type(built).__name__} already")
    digest = hashlib.sha256(checkpoints.fingerprint(model).encode())
    config = ", ".join(f"{field.name}={getattr(built.config, field.name)!r}" for field in fields(built.config))
    features = sorted(model.mel.given.items())
    digest.update(f"(TowerConfig({config}), {_layers_in_0_1(model)}, {features})".encode())
    return digest.hexdigest()[:16]


def _layers_in_0_1(model: student.Student | ClapEncoder) -> list[str]:
    """The classes of a model's modules, outer before inner, as songsight 0.1 had them: a function of its config."""
    config = tower(model).config
    patch_norm = "LayerNorm" if config.enable_patch_layer_norm else "Identity"
    attention = ["Dropout", "LayerNorm", "Linear", "Linear", "Dropout"]
    blocks = ["_Block", *attention, "LayerNorm", "Linear", "Linear", "Dropout"] * sum(config.depths)
    merges = ["_Merge", "LayerNorm", "Linear"] * (len(config.depths) - 1)
    layers = ["BatchNorm2d", "Linear", patch_norm, "ModuleList", *blocks, "ModuleList", *merges, "LayerNorm"]
    if isinstance(model, student.Student):
        head = ["Sequential", "Linear", "GELU", "Linear"] if model.config.head == "mlp" else ["Linear"]
        return ["Student", "LogMel", *head, "Tower", *layers]
    activation = "GELU" if isinstance(model.base.projection[1], nn.GELU) else "ReLU"
    return ["ClapEncoder", "LogMel", "Base", "Tower", *layers, "Sequential", "Linear", activation, "Linear"]


def tower(model: student.Student | ClapEncoder) -> Any:
    """The audio tower of a model of either kind."""
    return model.tower if isinstance(model, student.Student) else model.base.tower


def width(model: student.Student | ClapEncoder) -> int:
    """Numbers in a vector of a model of either kind."""
    return model.config.embedding_width if isinstance(model, student.Student) else model.width
