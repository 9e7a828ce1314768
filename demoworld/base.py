"""The stand-in base: a tiny ClapModel in BioLingual's place, trained on the world's recordings and their captions."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast, logging
from transformers.models.clap.configuration_clap import ClapAudioConfig, ClapTextConfig

from demoworld.contrastive import contrast, fit
from songsight.models.mel import LogMel
from songsight.store import tables

STEPS = 360

_BATCH, _LEARNING_RATE = 64, 1e-3
_MEL_BATCH = 64
_VOCABULARY = 600
_LONGEST_TEXT = 40
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # RoBERTa's, at RoBERTa's ids


def train_base(world_dir: str, out: str, seed: int = 0, steps: int = STEPS) -> None:
    """Trains the base on the world's training recordings, each with one of its captions.

    Args:
        world_dir: what `demoworld.world.build` wrote.
        out: becomes a folder that `ClapModel`, `ClapFeatureExtractor` and `AutoTokenizer` load by `from_pretrained`.
        seed: the same seed, number of threads and steps give the same weights.
        steps: of 64 recordings (one a species where there are fewer species).
    """
    torch.manual_seed(seed)
    url = os.path.join(world_dir, "recordings.parquet")
    table = tables.read_table(url, "recordings", ["path", "captions", "split"], tables.RECORDINGS)
    rows = [row for row in table.to_pylist() if row["split"] == "train"]
    captions = [row["captions"] for row in rows]

    extractor = ClapFeatureExtractor(
        feature_size=64,
        sampling_rate=16_000,
        hop_length=188,
        fft_window_size=1024,
        max_length_s=3,
        frequency_min=50,
        frequency_max=8000,
        truncation="rand_trunc",
        padding="repeatpad",
    )
    tokenizer = _tokenizer(sorted({caption for some in captions for caption in some}))
    model = ClapModel(_config(len(tokenizer)))
    mels = _mels([os.path.join(world_dir, row["path"]) for row in rows], extractor)

    def loss_of(chosen: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        said = [captions[row][rng.integers(len(captions[row]))] for row in chosen]
        # A bird may begin at any moment: the clip is turned round in time.
        heard = mels[chosen].roll(int(rng.integers(mels.shape[2])), dims=2)
        audio = model.get_audio_features(input_features=heard).pooler_output
        text = model.get_text_features(**tokenizer(said, padding=True, return_tensors="pt")).pooler_output
        return contrast(audio, text, model.logit_scale_a, said)

    # Without gradients through the first norm, the patches' convolution need not compute its input's, its dearest part.
    model.audio_model.audio_encoder.batch_norm.requires_grad_(False)
    model.train()
    species = [row["scientific_name"] for row in rows]
    fit(
        "base",
        loss_of,
        [p for p in model.parameters() if p.requires_grad],
        species,
        steps,
        _LEARNING_RATE,
        _BATCH,
        seed,
    )

    logging.disable_progress_bar()  # a bar for a moment's work
    model.save_pretrained(out)
    extractor.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _config(vocabulary: int) -> ClapConfig:
    """HTS-AT and RoBERTa in miniature.

    The tower folds a spectrogram of 256 frames × 64 mels into a square of 128 × 128 and cuts that into 8 × 8 patches;
    its second stage sees 4 × 4, which one window just fills.
    """
    audio = ClapAudioConfig(
        spec_size=128,
        num_mel_bins=64,
        patch_size=16,
        patch_stride=[16, 16],
        window_size=4,
        patch_embeds_hidden_size=64,
        depths=[1, 2],
        num_hidden_layers=2,
        num_attention_heads=[2, 4],
        hidden_size=128,  # patch_embeds_hidden_size doubled at each stage but the first: a wrong one passes silently
        projection_dim=128,
        hidden_dropout_prob=0.0,
    )
    text = ClapTextConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=_LONGEST_TEXT + 2,  # RoBERTa counts positions from behind the padding's id
        projection_dim=128,
        # Without dropout: a text tower this small does not learn under it.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=128)


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the world's own captions, with RoBERTa's special tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=_LONGEST_TEXT,
    )


def _mels(paths: list[str], extractor: ClapFeatureExtractor) -> torch.Tensor:
    """Every recording's features, once: float32 [recordings, 1, frames, mels] in dB. All have the clip's length."""
    mel = LogMel(extractor.to_dict())
    parts = []
    for start in range(0, len(paths), _MEL_BATCH):
        waves = [soundfile.read(path, dtype="float32")[0] for path in paths[start : start + _MEL_BATCH]]
        parts.append(mel(torch.from_numpy(np.stack(waves))))
    return torch.cat(parts)
