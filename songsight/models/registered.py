"""The student as MLflow's registry serves it: `mlflow.pyfunc.load_model("models:/songsight/1").predict(["a.wav"])`.

MLflow runs this file when it loads the model ("models from code"), so that no pickle is involved. What it imports of
songsight is kept with the model: to load or serve one, songsight need not be installed, and a version of it that is
cannot change what the model does.
"""

from __future__ import annotations

from importlib import metadata, resources
from typing import Any

import numpy as np
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

CODE = ("songsight",)  # our packages that this file imports
NEEDS = ("av", "filelock", "fsspec", "numpy", "s3fs", "safetensors", "soundfile", "soxr", "torch")  # what those import


class SongsightModel(PythonModel):
    """Embeds recordings: paths or URLs in, unit vectors in the teacher's space out."""

    def load_context(self, context: Any) -> None:
        """Loads the student from the model's artifacts."""
        import songsight

        self.encoder = songsight.load(context.artifacts["student"], precision="fp32")

    def predict(self, context, model_input, params=None):  # without types: MLflow would check them itself
        """The vector of each recording's beginning.

        Args:
            context: not used.
            model_input: a list of paths or URLs, or a data frame whose first column holds them.
            params: not used.

        Returns:
            float32 [recordings, width]; a row of NaN for a recording that cannot be decoded.
        """
        paths = model_input.iloc[:, 0] if hasattr(model_input, "columns") else model_input
        return self.encoder.embed(list(paths))


def signature(width: int) -> ModelSignature:
    """Paths in, vectors of a width out."""
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, width))]),
    )


def code_paths() -> list[str]:
    """The folders of our own code that a model takes along."""
    return [str(resources.files(package)) for package in CODE]


def requirements() -> list[str]:
    """What else it runs on, as it is installed here; not by builds such as `+cpu`, which no index has."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in NEEDS]


set_model(SongsightModel())
