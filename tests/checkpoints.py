"""Checkpoints of the published architectures and file layouts, with random weights: loading is proven on these."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

SMALL_AUDIO = {
    "spec_size": 128,
    "num_mel_bins": 64,
    "patch_size": 8,
    "patch_stride": [8, 8],
    "window_size": 4,
    "patch_embeds_hidden_size": 16,
    "depths": [2, 2],
    "num_attention_heads": [2, 4],
    "hidden_size": 32,
    "projection_dim": 24,
}
SMALL_TEXT = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "projection_dim": 24,
}
SMALL_CLIP = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def clap(folder: Path, small: bool = True, as_bin: bool = False, seed: int = 0, truncation: str = "rand_trunc") -> Path:
    """A ClapModel folder. Not `small`: BioLingual's architecture, as `ClapConfig()` builds it, at 48 kHz and 10 s."""
    torch.manual_seed(seed)
    if small:
        config = ClapConfig(audio_config=SMALL_AUDIO, text_config=SMALL_TEXT, projection_dim=24)
        extractor = ClapFeatureExtractor(
            sampling_rate=16000, hop_length=188, max_length_s=3, frequency_max=8000, truncation=truncation
        )
    else:
        config = ClapConfig()
        extractor = ClapFeatureExtractor(truncation=truncation)
    model = ClapModel(config)
    # Statistics other than 0 and 1, so that a loader that loses them is found out.
    norm = model.audio_model.audio_encoder.batch_norm
    norm.running_mean.normal_(-30, 5)
    norm.running_var.uniform_(200, 400)
    folder.mkdir(parents=True, exist_ok=True)
    if as_bin:
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    _tokenizer(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer with RoBERTa's special tokens, trained on a few names."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        ["Turdus merula with common name Eurasian Blackbird"], vocab_size=300, special_tokens=special
    )
    RobertaTokenizerFast(tokenizer_object=bpe._tokenizer).save_pretrained(folder)


def open_clip_dir(folder: Path, arch: str | None = None, seed: int = 0, width: int = 48) -> Path:
    """An open_clip folder as BioCLIP-2 ships it: `open_clip_config.json` and `open_clip_model.safetensors`.

    Args:
        folder: to write to.
        arch: a built-in architecture such as `ViT-L-14`; None for a small model.
        seed: of the weights.
        width: of the small model's embedding.
    """
    torch.manual_seed(seed)
    config: dict[str, Any]
    if arch:
        config = open_clip.get_model_config(arch)
        model = open_clip.create_model(arch)
    else:
        config = SMALL_CLIP | {"embed_dim": width}
        model = open_clip.CLIP(**config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = open_clip.get_model_preprocess_cfg(model) or {}
    size = config["vision_cfg"]["image_size"]
    preprocess = {
        **preprocess,
        "size": (size, size),
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    with open(folder / "open_clip_config.json", "w") as handle:
        json.dump({"model_cfg": config, "preprocess_cfg": preprocess}, handle)
    return folder


def lay_in_hub_cache(folder: Path, cache: Path, name: str, revision: str = "0" * 40) -> None:
    """Puts a folder where `huggingface_hub` caches `name`, so that a hub name loads while offline."""
    repo = cache / ("models--" + name.replace("/", "--"))
    snapshot = repo / "snapshots" / revision
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(revision)
    os.symlink(folder.resolve(), snapshot)
