"""The student: a ClapModel's audio tower with a new head into the teacher's space.

    waveform → LogMel → HTS-AT (the checkpoint's audio tower) → pooled audio embedding → head → unit vector

A student is a folder that the ecosystem's own loaders read: `config.json`, `model.safetensors` (the tower under the
names that transformers' ClapModel gives it), `preprocessor_config.json` and a model card. No pickle. To load one takes
torch alone, so that actors start early; only `load_base` imports transformers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from songsight.errors import UserError
from songsight.models import htsat
from songsight.models.mel import LogMel
from songsight.store import checkpoints

if TYPE_CHECKING:
    from transformers import ClapModel

Head = Literal["linear", "mlp"]

MODEL_TYPE = "songsight"
_WANTED_BASE = "a ClapModel checkpoint (config.json, preprocessor_config.json and its weights)"
_WANTED_STUDENT = "a songsight model (config.json, model.safetensors, preprocessor_config.json)"
_TOWER_IN_FILE = "audio_model."

# CLIP's temperature (arXiv 2103.00020, section 2.5): starts at 0.07, and the logits are never scaled by more than 100.
INITIAL_LOG_SCALE = math.log(1 / 0.07)
LARGEST_LOG_SCALE = math.log(100.0)


@dataclass(frozen=True)
class StudentConfig:
    """What a student is made of and what it was made from; its `config.json`.

    Attributes:
        audio_config: the tower's, as in the ClapModel's own `config.json`.
        embedding_width: of the unit vectors.
        head: linear or mlp.
        base_model, teacher, text_types: options that it was made with.
        teacher_fingerprint: hash of the teacher's weights.
    """

    audio_config: dict[str, Any] = field(default_factory=dict)
    embedding_width: int = 768
    head: Head = "linear"
    base_model: str = ""
    teacher: str = ""
    teacher_fingerprint: str = ""
    text_types: str = ""


class Student(nn.Module):
    """The audio encoder that annotates.

    Args:
        config: of the student.
        preprocessor: the checkpoint's `preprocessor_config.json`, saved with the student.

    Attributes:
        mel: waveforms to features, equal to the checkpoint's extractor's.
        tower: the audio tower.
        head: pooled audio embedding to the teacher's space.
        log_scale: the contrastive loss's learnable log inverse temperature.
    """

    def __init__(self, config: StudentConfig, preprocessor: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.preprocessor = dict(preprocessor)
        self.mel = LogMel(preprocessor)
        tower = htsat.TowerConfig.of(config.audio_config)
        pooled, width = tower.pooled_width, config.embedding_width
        if config.head == "linear":
            self.head: nn.Module = nn.Linear(pooled, width)
        elif config.head == "mlp":
            self.head = nn.Sequential(nn.Linear(pooled, pooled), nn.GELU(), nn.Linear(pooled, width))
        else:
            raise UserError(f"--head {config.head}: should be linear or mlp")
        # Behind the head: what is drawn for a new head then does not depend on how towers are built.
        self.tower = htsat.Tower(tower)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_scale.device

    def pooled(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        """The tower's pooled audio embedding, float [batch, pooled width], of features [batch, 1, frames, mels]."""
        return self.tower(mel_B1TM)

    def forward(self, mel_B1TM: torch.Tensor) -> torch.Tensor:
        """Unit vectors in the teacher's space, float32 [batch, width], of features [batch, 1, frames, mels]."""
        return F.normalize(self.head(self.pooled(mel_B1TM)).float(), dim=-1)

    @torch.inference_mode()
    def embed(self, waves_BS: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [batch, width], of clips [batch, clip_samples] at the checkpoint's rate."""
        return self(self.mel(waves_BS.to(self.device)))

    @torch.inference_mode()
    def embed_pooled(self, waves_BS: torch.Tensor) -> torch.Tensor:
        """The tower's own embedding before the head, float32 [batch, pooled width]."""
        return self.pooled(self.mel(waves_BS.to(self.device))).float()


class Base(nn.Module):
    """The audio half of the ClapModel that a student came from: its tower and its place in the audio–text space."""

    def __init__(self, model: ClapModel) -> None:
        super().__init__()
        audio: Any = model.config.audio_config
        config = htsat.TowerConfig.of(audio.to_dict())
        self.tower = htsat.Tower(config)
        self.tower.load_state_dict(htsat.from_clap(model.audio_model.state_dict(), config))
        layers = model.audio_projection.state_dict()
        wide, joint = config.pooled_width, audio.projection_dim
        activation = nn.GELU() if audio.projection_hidden_act == "gelu" else nn.ReLU()
        self.joint_width: int = joint
        self.projection = nn.Sequential(nn.Linear(wide, joint), activation, nn.Linear(joint, joint))
        for number, name in ((0, "linear1"), (2, "linear2")):
            weights = {kind: layers[f"{name}.{kind}"] for kind in ("weight", "bias")}
            self.projection[number].load_state_dict(weights)
        self.eval().requires_grad_(False)

    def forward(self, mel_B1TM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pooled audio embedding [batch, pooled width], embedding in the joint space [batch, joint width])."""
        pooled_BP = self.tower(mel_B1TM)
        return pooled_BP, self.projection(pooled_BP)


@dataclass(frozen=True)
class Origin:
    """What a new student starts from: the audio half of a ClapModel, or an earlier student.

    Attributes:
        audio_config: the tower's, as in the ClapModel's `config.json`.
        preprocessor: its `preprocessor_config.json`.
        tower: its weights, by `htsat.Tower`'s names.
        base_model: the ClapModel that it came from; of an earlier student, that one's.
        fingerprint: a hash of the weights.
        earlier: the earlier student, or None.
    """

    audio_config: dict[str, Any]
    preprocessor: dict[str, Any]
    tower: dict[str, torch.Tensor]
    base_model: str
    fingerprint: str
    earlier: Student | None = None


def origin(name: str, option: str = "--student") -> Origin:
    """Loads what a new student starts from.

    Args:
        name: hub name (`davidrrobinson/BioLingual`), folder or URL of a ClapModel; or a folder, URL or registered name
            (`models:/songsight@champion`) of a student.
        option: the option that named it, for error lines.

    Raises:
        UserError: neither is at that name.
    """
    folder = checkpoints.local_folder(name, option)
    if checkpoints.model_type(folder) == MODEL_TYPE:
        earlier = load(folder, option=option)
        config, digest = earlier.config, checkpoints.fingerprint(earlier)
        return Origin(
            config.audio_config, earlier.preprocessor, earlier.tower.state_dict(), config.base_model, digest, earlier
        )
    base, preprocessor = load_base(name, option)
    audio_config = json.loads(base.audio_model.config.to_json_string(use_diff=False))
    tower = htsat.from_clap(base.audio_model.state_dict(), htsat.TowerConfig.of(audio_config))
    return Origin(audio_config, preprocessor, tower, name, checkpoints.fingerprint(base.audio_model))


def from_base(
    name: str,
    embedding_width: int,
    head: Head = "linear",
    option: str = "--student",
    **provenance: str,
) -> Student:
    """A new student on the audio tower of a ClapModel checkpoint or of an earlier student.

    Its head is fresh, drawn from torch's generator; but an earlier student's head and temperature go on where they
    stood if the teacher (`teacher_fingerprint`) and the head's shape are the same.

    Args:
        name: see `origin`.
        embedding_width: the teacher's width.
        head: one linear layer, or two with a GELU between.
        option: the option that named it, for error lines.
        **provenance: fields of `StudentConfig` that say where the model came from.

    Raises:
        UserError: see `origin`.
    """
    start = origin(name, option)
    config = StudentConfig(start.audio_config, embedding_width, head, **provenance)
    student = Student(config, start.preprocessor)
    student.tower.load_state_dict(start.tower)
    if start.earlier is not None and _same_space(start.earlier.config, config):
        student.head.load_state_dict(start.earlier.head.state_dict())
        student.log_scale.data.copy_(start.earlier.log_scale)
    return student.eval()


def _same_space(one: StudentConfig, other: StudentConfig) -> bool:
    """Whether two heads lead into the same teacher's space in the same way."""
    same = (one.teacher_fingerprint, one.head, one.embedding_width) == (
        other.teacher_fingerprint,
        other.head,
        other.embedding_width,
    )
    return same and bool(one.teacher_fingerprint)


def load_base(name: str, option: str = "--student") -> tuple[ClapModel, dict[str, Any]]:
    """A whole ClapModel with its text tower, and its `preprocessor_config.json`.

    Raises:
        UserError: nothing that transformers can load as a ClapModel is at that name; a songsight model is none.
    """
    from transformers import ClapFeatureExtractor, ClapModel

    folder = checkpoints.local_folder(name, option)
    if checkpoints.model_type(folder) == MODEL_TYPE:
        came_from = _read_json(folder, "config.json").get("base_model")
        raise UserError(
            f"{option} {name}: is a songsight model, which has no text tower; give a whole ClapModel"
            + (f", such as {came_from}, which it came from" if came_from else "")
        )
    with checkpoints.explained(option, folder, _WANTED_BASE, name):
        preprocessor = ClapFeatureExtractor.from_pretrained(folder).to_dict()
        _check_architecture(folder)
        model = ClapModel.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False), preprocessor


def _check_architecture(folder: str) -> None:
    """transformers loads any folder into a ClapModel and leaves what does not fit random: refuse that."""
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(folder).model_type
    if found != "clap":
        raise ValueError(f"its config.json is of type {found!r}, not 'clap'")


def load(name: str, device: str = "cpu", option: str = "--model") -> Student:
    """Loads a student, ready to embed.

    Args:
        name: a folder or URL that `save` wrote, or a hub name of such a folder.
        device: where it goes.
        option: the option that named it, for error lines.

    Raises:
        UserError: no songsight model is at that name.
    """
    folder = checkpoints.local_folder(name, option)
    if not os.path.isdir(folder):
        from huggingface_hub import snapshot_download

        with checkpoints.explained(option, folder, _WANTED_STUDENT, name):
            folder = snapshot_download(folder)
    with checkpoints.explained(option, folder, _WANTED_STUDENT, name):
        found = _read_json(folder, "config.json")
        if found.get("model_type") != MODEL_TYPE:
            raise UserError(
                f"{option} {name}: this folder holds a {found.get('model_type')!r} model, not a songsight one; "
                "`songsight distill --student` makes one of a ClapModel"
            )
        known = {one.name for one in fields(StudentConfig)}
        config = StudentConfig(**{key: value for key, value in found.items() if key in known})
        student = Student(config, _read_json(folder, "preprocessor_config.json"))
        _read_weights(student, os.path.join(folder, "model.safetensors"))
    return student.eval().requires_grad_(False).to(device)


def _read_json(folder: str, name: str) -> dict[str, Any]:
    with open(os.path.join(folder, name), encoding="utf-8") as handle:
        return json.load(handle)


def _read_weights(student: Student, path: str) -> None:
    state = load_file(path)
    tower = {key.removeprefix(_TOWER_IN_FILE): state.pop(key) for key in list(state) if key.startswith(_TOWER_IN_FILE)}
    ours = htsat.from_clap(tower, student.tower.config)
    student.load_state_dict(state | {f"tower.{key}": value for key, value in ours.items()})


def save(student: Student, folder: str, card: str) -> None:
    """Writes a student's folder: `config.json`, `model.safetensors`, `preprocessor_config.json`, `README.md`."""
    os.makedirs(folder, exist_ok=True)
    state = {key: value for key, value in student.state_dict().items() if not key.startswith("tower.")}
    tower = htsat.to_clap(student.tower.state_dict(), student.tower.config)
    state |= {_TOWER_IN_FILE + key: value for key, value in tower.items()}
    weights = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    texts = {
        "config.json": json.dumps({"model_type": MODEL_TYPE} | asdict(student.config), indent=2),
        "preprocessor_config.json": json.dumps(student.preprocessor, indent=2),
        "README.md": card,
    }
    for name, text in texts.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as handle:
            handle.write(text)


@dataclass(frozen=True)
class Card:
    """What a model card states."""

    base_model: str
    teacher: str
    teacher_fingerprint: str
    data: str
    data_fingerprint: str
    run_id: str
    metrics: dict[str, float]
    options: dict[str, Any]

    def markdown(self) -> str:
        """The card, with the metadata block that the hub reads."""
        metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in self.metrics.items())
        options = "\n".join(f"| {name} | `{value}` |" for name, value in self.options.items())
        return f"""---
library_name: songsight
base_model: {self.base_model}
pipeline_tag: feature-extraction
tags: [bioacoustics, audio, retrieval]
---
# A songsight audio encoder

The audio tower of `{self.base_model}` with a head into the embedding space of `{self.teacher}` (weights
`{self.teacher_fingerprint}`), distilled from texts about species; no image was seen in training. It turns a clip of
sound into a unit vector that is compared with the teacher's vectors of photographs and texts by dot product.

Trained on `{self.data}` (fingerprint `{self.data_fingerprint}`) in MLflow run `{self.run_id}`.

| held-out measure | value |
|---|---|
{metrics}

| option | value |
|---|---|
{options}

Load it with `songsight.models.student.load(folder)`, or annotate an archive: `songsight annotate --model folder …`.
"""
