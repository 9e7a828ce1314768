"""Keeps a trained model: in the folder of `--out`, and as a version of a registered model in MLflow."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

from jobs.distilling import promotion
from jobs.distilling.prepare import Inputs
from jobs.shared import tracking
from jobs.shared.options import note
from songsight.errors import JobError
from songsight.models.student import Card
from songsight.reasons import one_line
from songsight.store import urls


@dataclass(frozen=True)
class Destination:
    """Where a trained model is kept.

    Attributes:
        out: folder or URL.
        register_as: name of the registered model.
        rule: what makes the new version the champion, or None.
        is_trial: whether it is of a sweep, which gives the aliases itself.
    """

    out: str
    register_as: str
    rule: promotion.Rule | None
    is_trial: bool


def card_of(
    inputs: Inputs, recordings_url: str, options: dict[str, Any], run_id: str, measures: dict[str, float]
) -> Card:
    """The model card of a training: what went in, its options, its MLflow run and its held-out measures."""
    return Card(
        base_model=inputs.base_model,
        teacher=inputs.sources.teacher,
        teacher_fingerprint=inputs.fingerprints["teacher"],
        data=recordings_url,
        data_fingerprint=inputs.fingerprints["recordings"],
        run_id=run_id,
        metrics=measures,
        options=options,
    )


def store_and_register(model_url: str, card: Card, width: int, to: Destination) -> str:
    """Stores a model with its card, registers it and gives the new version its tags and aliases.

    Args:
        model_url: folder of the trained student.
        card: of the model, with its held-out measures.
        width: of its vectors.
        to: where it is kept.

    Returns:
        The number of the new version.

    Raises:
        JobError: the model is stored, and MLflow did not register it.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = urls.fetch_folder(model_url, os.path.join(folder, "model"))
        urls.write_bytes(os.path.join(model, "README.md"), card.markdown().encode())
        urls.store_folder(model, to.out)
        try:
            version = new_version(model, width, to.register_as)
            promotion.set_tags(to.register_as, version, card.metrics)
            became = "a trial"
            if not to.is_trial:
                became = promotion.set_aliases(to.register_as, version, card.metrics, to.rule)
        except Exception as error:  # MLflow's, requests' or the database's, whichever failed
            raise JobError(
                f"the model is in {to.out}, but MLflow at {tracking.store()} did not register it: "
                f"{one_line(str(error))}; the same command registers it"
            ) from error
    note(f"registered as models:/{to.register_as}/{version}: {became}")
    return version


def new_version(folder: str, width: int, name: str) -> str:
    """Logs the model and the code that it needs with MLflow, loadable by `mlflow.pyfunc`.

    Args:
        folder: of the student.
        width: of its vectors.
        name: of the registered model.

    Returns:
        The number of the new version.
    """
    import mlflow  # behind `tracking`, which sets what MLflow reads when it is imported

    # MLflow advises type hints and an input example, in colour and several times, which a signature makes needless.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        from songsight.models import registered

        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=registered.__file__,
            artifacts={"student": folder},
            code_paths=registered.code_paths(),
            signature=registered.signature(width),
            pip_requirements=registered.requirements(),
            registered_model_name=name,
        )
    return str(logged.registered_model_version)
