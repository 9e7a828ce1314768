"""The student as MLflow's registry serves it: `mlflow.pyfunc.load_model("models:/songsight/1").predict(["a.wav"])`.

MLflow runs this file when it loads the model ("models from code"), so that no pickle is involved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec


class SongsightModel(PythonModel):
    """Embeds recordings: paths or URLs in, unit vectors in the teacher's space out."""

    def load_context(self, context: Any) -> None:
        """Loads the student from the model's artifacts."""
        from songsight.models import student

        self.student = student.load(context.artifacts["student"])

    def predict(self, context, model_input, params=None):  # without types: MLflow would check them itself
        """The vector of each recording's beginning.

        Args:
            context: not used.
            model_input: a list of paths or URLs, or a data frame whose first column holds them.
            params: not used.

        Returns:
            float32 [recordings, width]; a row of NaN for a recording that cannot be decoded.
        """
        import torch

        from songsight.audio.padding import fit_length
        from songsight.audio.reader import AudioError, open_audio, read_mono

        paths = model_input.iloc[:, 0] if hasattr(model_input, "columns") else model_input
        mel = self.student.mel
        vectors = np.full((len(paths), self.student.config.embedding_width), np.nan, np.float32)
        for i, path in enumerate(paths):
            try:
                with open_audio(str(path)) as reader:
                    wave = read_mono(reader, 0.0, min(mel.clip_s, reader.info.duration_s), mel.sample_rate_hz)
            except AudioError:
                continue
            if len(wave):
                clip = fit_length(wave[: mel.clip_samples], mel.clip_samples, mel.padding)
                vectors[i] = self.student.embed(torch.from_numpy(clip[None])).numpy()[0]
        return vectors


def signature(width: int) -> ModelSignature:
    """Paths in, vectors of a width out."""
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, width))]),
    )


set_model(SongsightModel())
