"""The teacher: a frozen open_clip model whose text space already knows how species look.

BioCLIP-2 (`hf-hub:imageomics/bioclip-2`, arXiv 2505.23883) is the one songsight is for; any open_clip model with a text
and an image tower works: `hf-hub:owner/name`, `local-dir:/folder`, or a plain folder or URL that holds
`open_clip_config.json` and its weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import open_clip
import torch
from PIL import Image

from songsight.errors import UserError
from songsight.models.student import MODEL_TYPE
from songsight.store import checkpoints

ImageResize = Literal["checkpoint", "squash"]
_WANTED = "an open_clip model (open_clip_config.json and its weights)"
_TEXT_BATCH = 256


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher.

    Attributes:
        name: as the user gave it.
        model: frozen, in evaluation mode.
        tokenizer: texts to int64 [texts, context].
        transform: an RGB image to float32 [3, height, width].
        width: numbers in an embedding.
        image_resize: how `transform` makes images square, for the record.
        fingerprint: a hash of the weights: vectors of different teachers are not comparable, even of one width.
        architecture: a hash of what is computed with them: models with GELU and with QuickGELU can have equal weights.
    """

    name: str
    model: Any
    tokenizer: Any
    transform: Any
    width: int
    image_resize: str
    fingerprint: str
    architecture: str = ""

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts: float32 [texts, width]."""
        device = next(self.model.parameters()).device
        parts = []
        for start in range(0, len(texts), _TEXT_BATCH):
            tokens = self.tokenizer(list(texts[start : start + _TEXT_BATCH])).to(device)
            parts.append(self.model.encode_text(tokens, normalize=True).float().cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float32)

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors of photographs: float32 [images, width]."""
        device = next(self.model.parameters()).device
        batch = torch.stack([self.transform(image.convert("RGB")) for image in images]).to(device)
        return self.model.encode_image(batch, normalize=True).float().cpu().numpy()


def load(
    name: str, image_resize: ImageResize = "checkpoint", device: str = "cpu", option: str = "--teacher"
) -> Teacher:
    """Loads a teacher.

    Args:
        name: `hf-hub:owner/name`, `local-dir:/folder`, a folder or a URL.
        image_resize: `checkpoint` is the transform that the checkpoint's own configuration names (open_clip resizes
            the shorter side and crops); `squash` resizes both sides to the square, as pybioclip does.
        device: where the model goes.
        option: the option that named it, for error lines.

    Raises:
        UserError: nothing that open_clip can load is at that name.
    """
    identifier = _identifier(name, option)
    bare = identifier.partition(":")[2]
    with checkpoints.explained(option, bare, _WANTED, name):
        model, _, transform = open_clip.create_model_and_transforms(
            identifier, image_resize_mode="squash" if image_resize == "squash" else None
        )
        tokenizer = open_clip.get_tokenizer(identifier)
    model = model.eval().requires_grad_(False)
    # A model's configuration may call its width many things; its own answer to a text is the one that counts.
    width = int(model.encode_text(tokenizer([""])).shape[-1])
    configured = open_clip.get_model_preprocess_cfg(model).get("resize_mode", "shortest")
    return Teacher(
        name=name,
        model=model.to(device),
        tokenizer=tokenizer,
        transform=transform,
        width=width,
        image_resize="squash" if image_resize == "squash" else str(configured),
        fingerprint=checkpoints.fingerprint(model),
        architecture=_architecture(model),
    )


def _architecture(model: torch.nn.Module) -> str:
    """A hash of each module's kind and plain attributes, such as an attention's number of heads: 16 hex digits."""
    plain = (bool, int, float, str)
    parts = [
        (name, type(module).__name__, sorted((k, v) for k, v in vars(module).items() if isinstance(v, plain)))
        for name, module in model.named_modules()
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _identifier(name: str, option: str) -> str:
    """open_clip's own schema for a name: folders and URLs become `local-dir:`, hub names `hf-hub:`."""
    folder = checkpoints.local_folder(name.removeprefix("local-dir:").removeprefix("hf-hub:"), option)
    if checkpoints.model_type(folder) == MODEL_TYPE:
        raise UserError(
            f"{option} {name}: is a songsight model, a student, which has none of a teacher's text and image towers; "
            "give an open_clip model, such as hf-hub:imageomics/bioclip-2"
        )
    return f"local-dir:{folder}" if os.path.isdir(folder) else f"hf-hub:{folder}"
