"""An untouched ClapModel, both halves: sounds and texts meet in its own joint space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from songsight.metrics import unit
from songsight.models import student
from songsight.models.mel import LogMel
from songsight.store import checkpoints

_TEXT_BATCH = 256


class ClapEncoder(nn.Module):
    """The audio half of a ClapModel, with what the annotator asks of a student.

    Args:
        base: the audio half.
        preprocessor: the checkpoint's `preprocessor_config.json`.
        temperature: of its softmax over texts.

    Attributes:
        mel: waveforms to features.
        width: of the joint audio–text space.
    """

    def __init__(self, base: student.Base, preprocessor: dict[str, Any], temperature: float) -> None:
        super().__init__()
        self.mel = LogMel(preprocessor)
        self.base = base
        self.temperature = temperature
        self.width = base.joint_width

    @torch.inference_mode()
    def embed(self, waves_BS: torch.Tensor) -> torch.Tensor:
        """Unit vectors in the joint space, float32 [batch, width], of clips [batch, clip_samples]."""
        mel_B1TM = self.mel(waves_BS.to(next(self.base.parameters()).device))
        return F.normalize(self.base(mel_B1TM)[1].float(), dim=-1)


class TextTower:
    """The text half of a ClapModel.

    Args:
        model: the whole ClapModel.
        folder: of its tokenizer.
        option: the option that named it, for error lines.

    Raises:
        UserError: the folder has no tokenizer.
    """

    def __init__(self, model: Any, folder: str, option: str) -> None:
        from transformers import AutoTokenizer

        with checkpoints.explained(option, folder, "a ClapModel checkpoint with its tokenizer"):
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = model

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors in the joint space, float32 [texts, joint width]."""
        parts = []
        for start in range(0, len(texts), _TEXT_BATCH):
            tokens = self.tokenizer(
                list(texts[start : start + _TEXT_BATCH]), padding=True, truncation=True, return_tensors="pt"
            )
            found = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            parts.append(self.model.text_projection(found.pooler_output).float())
        return unit(torch.cat(parts).numpy()).astype(np.float32)

    def names(self, species: Sequence[tuple[str, str | None]]) -> np.ndarray:
        """A species' vector: between those of its scientific and its common name, float32 [species, joint width].

        Args:
            species: (scientific name, common name where there is one).
        """
        scientific = self.embed([name for name, _ in species])
        common = self.embed([common or name for name, common in species])
        return unit(scientific + common).astype(np.float32)


def load(name: str, device: str = "cpu", option: str = "--model") -> tuple[ClapEncoder, TextTower]:
    """Both halves of a ClapModel.

    Raises:
        UserError: none is at the name, its tokenizer is missing, or its tower is of a kind that is not supported.
    """
    model, preprocessor = student.load_base(name, option)
    with checkpoints.explained(option, name, "a ClapModel that songsight can run"):
        encoder = ClapEncoder(student.Base(model), preprocessor, float(np.exp(-model.logit_scale_a.item())))
    return encoder.eval().to(device), TextTower(model, checkpoints.local_folder(name, option), option)
