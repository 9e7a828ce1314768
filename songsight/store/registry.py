"""Models by their names in MLflow's registry: `models:/songsight/3`, `…/latest`, `models:/songsight@champion`.

The store is `sqlite:///mlflow.db` in the working folder unless `MLFLOW_TRACKING_URI` names another.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from songsight.errors import UserError
from songsight.store import cache, urls

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SCHEME = "models:/"
DEFAULT_STORE = "sqlite:///mlflow.db"
ANSWER_S = 10.0
_OPEN_CLIP = "open_clip_config.json"
_FORM = re.compile(r"^models:/(?P<name>[^/@]+)(/(?P<version>\d+|latest)|@(?P<alias>[^/@]+))$")


def store() -> str:
    """The tracking URI of this process; local stores are made absolute so that workers elsewhere on disk find them.

    In the folder's name the signs stand escaped that would be read as parts of the URI.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE
    prefix = "sqlite:///"
    if uri.startswith(prefix) and not uri.startswith(prefix + "/"):
        folder = os.getcwd().replace("%", "%25").replace("?", "%3F")
        uri = prefix + os.path.normpath(os.path.join(folder, uri.removeprefix(prefix)))
    return uri


def database(uri: str) -> str | None:
    """The file of a store that is one on this machine; None for other stores."""
    prefix = "sqlite:////"
    return "/" + unquote(uri.removeprefix(prefix).partition("?")[0]) if uri.startswith(prefix) else None


def location(uri: str, option: str) -> str:
    """Where a registered model lies, which stays the same when its alias moves on.

    That is, of what `songsight distill` registered, the student. Of others it is the only folder among the artifacts
    of a pyfunc model, the version's own source where that is no MLflow model but a checkpoint's folder, or the model
    that `mlflow.transformers` logged.

    Args:
        uri: `models:/name/version`, `models:/name/latest` or `models:/name@alias`.
        option: the option that gave it, for the error line.

    Returns:
        the model's folder or URL. Where only the MLflow server can read its artifacts (`mlflow-artifacts:`), or they
        are to be put together first, the version's own `models:/name/version`.

    Raises:
        UserError: the store cannot be reached, it has no such model, version or alias, or holds no such folder.
    """
    import yaml

    client = _client(uri, option)
    version = _version(client, uri, option)
    source = client.get_model_version_download_uri(version.name, version.version)
    if source.startswith("file:"):
        source = unquote(urlsplit(source).path)
    if source.startswith("mlflow-artifacts:"):
        return f"{SCHEME}{version.name}/{version.version}"
    described = urls.join(source, "MLmodel")
    if not urls.exists(described):
        if urls.exists(urls.join(source, "config.json")) or urls.exists(urls.join(source, _OPEN_CLIP)):
            return source
        raise UserError(f"{option} {uri}: version {version.version}'s files are gone: there is no {described}")
    flavors = yaml.safe_load(urls.read_bytes(described)).get("flavors") or {}
    if "transformers" in flavors:
        return f"{SCHEME}{version.name}/{version.version}"
    return urls.join(source, _artifact(flavors, uri, option))


def folder(uri: str, option: str) -> str:
    """The same, but always a folder or URL: the others are copied to the cache (`songsight/store/cache.py`).

    Raises:
        UserError: as `location` does.
    """
    found = location(uri, option)
    if not found.startswith(SCHEME):
        return found
    import mlflow
    import yaml

    version = _version(_client(found, option), found, option)
    # A registry made anew counts from 1 again: the run tells its versions from those of the one before.
    same = repr((store(), found, version.run_id, version.creation_timestamp))

    def make(fresh: str) -> None:
        mlflow.artifacts.download_artifacts(artifact_uri=found, dst_path=fresh, tracking_uri=store())
        _put_together(fresh)

    copy = cache.entry("models", hashlib.sha256(same.encode()).hexdigest()[:16], make)
    described = os.path.join(copy, "MLmodel")
    if not os.path.exists(described):
        return copy
    with open(described, encoding="utf-8") as handle:
        flavors = yaml.safe_load(handle).get("flavors") or {}
    return os.path.join(copy, "model" if "transformers" in flavors else _artifact(flavors, uri, option))


def require_answer(what: str = "MLFLOW_TRACKING_URI: ") -> None:
    """Asks a store that is a server whether it is there: MLflow's own client would go on asking for minutes.

    Args:
        what: what it is wanted for, for the error line.

    Raises:
        UserError: nothing answers.
    """
    where = store()
    parts = urlsplit(where)
    if parts.scheme not in ("http", "https"):
        return
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise UserError(f"{what}no MLflow server answers at {where} ({error})") from None


def _client(uri: str, option: str) -> MlflowClient:
    """A client of the store, asked first whether it is there: MLflow's own client would go on asking for minutes."""
    where = store()
    require_answer(f"{option} {uri}: ")
    if (file := database(where)) and not os.path.exists(file):
        raise UserError(f"{option} {uri}: there is no MLflow store {where}; MLFLOW_TRACKING_URI names it")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=where, registry_uri=where)


def _version(client: MlflowClient, uri: str, option: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    form = _FORM.match(uri)
    if not form:
        raise UserError(
            f"{option} {uri}: should be models:/name/version, models:/name/latest or models:/name@alias, such as "
            "models:/songsight@champion"
        )
    name, number, alias = form["name"], form["version"], form["alias"]
    try:
        versions = client.search_model_versions(f"name='{name}'")
        if not versions:
            raise UserError(f"{option} {uri}: {store()} has no model {name!r}")
        if alias:
            wanted = client.get_registered_model(name).aliases.get(alias)
            if wanted is None:
                known = ", ".join(sorted(client.get_registered_model(name).aliases)) or "none"
                raise UserError(f"{option} {uri}: no version of {name} has the alias {alias!r} (aliases: {known})")
        else:
            wanted = max((v.version for v in versions), key=int) if number == "latest" else number
        try:
            return client.get_model_version(name, str(wanted))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            latest = max(int(v.version) for v in versions)
            raise UserError(f"{option} {uri}: {name} has no version {wanted} (the latest is {latest})") from None
    except MlflowException as error:
        raise UserError(f"{option} {uri}: {store()}: {' '.join(str(error).split())[:300]}") from None


def _artifact(flavors: dict[str, Any], uri: str, option: str) -> str:
    """Where the folder of a pyfunc model's checkpoint is, below the model's own."""
    artifacts = (flavors.get("python_function") or {}).get("artifacts") or {}
    named = artifacts.get("student") or (next(iter(artifacts.values())) if len(artifacts) == 1 else None)
    if named is None:
        raise UserError(
            f"{option} {uri}: that model is neither one that `songsight distill` registered, nor one with a "
            f"checkpoint's folder as its only artifact (its artifacts: {', '.join(sorted(artifacts)) or 'none'}), nor "
            "one that mlflow.transformers logged"
        )
    return named["path"]


def _put_together(made: str) -> None:
    """Moves the components that `mlflow.transformers` keeps beside a model, such as a tokenizer, into its folder."""
    for folder in sorted(glob.glob(os.path.join(glob.escape(made), "components", "*"))):
        for name in sorted(os.listdir(folder)):
            to = os.path.join(made, "model", name)
            if not os.path.exists(to):
                shutil.move(os.path.join(folder, name), to)
