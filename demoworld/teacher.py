"""The stand-in teacher: a small open_clip model in BioCLIP-2's place, trained on the world's photographs and names."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from demoworld.contrastive import contrast, fit
from songsight.models import prompts
from songsight.store import tables

STEPS = 250
TEXT_TYPES = ("sci", "com", "taxon", "sci_com", "taxon_com")

_CONFIG: dict[str, dict[str, Any]] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 48, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        # The longest text about a species has some 31 tokens; every further one would cost time in each step.
        "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "size": [48, 48],
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}
_BATCH, _LEARNING_RATE = 64, 2e-3


def train_teacher(world_dir: str, out: str, seed: int = 0, steps: int = STEPS) -> None:
    """Trains the teacher on the world's training photographs, each with a text about its species of a random type.

    Args:
        world_dir: what `demoworld.world.build` wrote.
        out: becomes an open_clip folder, for `local-dir:<out>`: `open_clip_config.json`, `open_clip_model.safetensors`.
        seed: the same seed, number of threads and steps give the same weights.
        steps: of 64 photographs (one a species where there are fewer species).
    """
    torch.manual_seed(seed)
    table = tables.read_table(os.path.join(world_dir, "images.parquet"), "images", ["path", "split"], tables.IMAGES)
    rows = [row for row in table.to_pylist() if row["split"] == "train"]
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "open_clip_config.json"), "w", encoding="utf-8") as handle:
        json.dump(_CONFIG, handle, indent=2)

    model = CLIP(**_CONFIG["model_cfg"])
    model.visual.to(memory_format=torch.channels_last)  # convolutions on a CPU then take half the time
    transform = image_transform_v2(PreprocessCfg(**_CONFIG["preprocess_cfg"]), is_train=False)
    images = torch.stack([transform(Image.open(os.path.join(world_dir, row["path"])).convert("RGB")) for row in rows])
    images = images.contiguous(memory_format=torch.channels_last)
    texts = np.array([[prompts.text(row, kind) for kind in TEXT_TYPES] for row in rows])
    distinct, text_ids = np.unique(texts, return_inverse=True)
    tokens = open_clip.get_tokenizer(f"local-dir:{out}")(distinct.tolist())
    if (tokens[:, -1] != 0).any():
        raise ValueError("a species' text is longer than the teacher's context")

    # The vocabulary is nine tenths of the weights, and the world's names use some hundreds of its rows. Only these are
    # trained, as a small table of their own. Its order keeps the end-of-text token the largest, by which CLIP finds it.
    used, tokens = torch.unique(tokens, return_inverse=True)
    vocabulary = model.token_embedding
    model.token_embedding = nn.Embedding.from_pretrained(vocabulary.weight.detach()[used], freeze=False)
    text_ids = text_ids.reshape(texts.shape)

    def loss_of(chosen: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        # All of a batch say one type of text: the shorter types then cost less than the longest.
        said = text_ids[chosen, rng.integers(len(TEXT_TYPES))]
        seen = images[chosen]
        if rng.random() < 0.5:
            seen = seen.flip(-1)
        image_vectors = model.encode_image(seen, normalize=True)
        text_vectors = _encode_trimmed(model, tokens[said])
        return contrast(image_vectors, text_vectors, model.logit_scale, distinct[said])

    model.train()
    species = [row["scientific_name"] for row in rows]
    fit("teacher", loss_of, model.parameters(), species, steps, _LEARNING_RATE, _BATCH, seed)

    with torch.no_grad():
        vocabulary.weight[used] = model.token_embedding.weight
    model.token_embedding = vocabulary
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, os.path.join(out, "open_clip_model.safetensors"))


def _encode_trimmed(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """As `model.encode_text(tokens, normalize=True)`, without computing what lies behind every text's end.

    Attention is causal and a text's vector is taken at its end, so the padding behind it changes nothing.
    """
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return nn.functional.normalize(x[torch.arange(len(x)), ends] @ model.text_projection, dim=-1)
