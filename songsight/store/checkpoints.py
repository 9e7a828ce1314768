"""Where a model comes from: a folder, a URL, the registry or the hub, and one line of help when it is nowhere."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

from songsight.errors import UserError
from songsight.store import cache, registry, urls

if TYPE_CHECKING:
    from torch import nn

_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")


def local_folder(name: str, option: str) -> str:
    """The local folder of a model, or its hub name where the hub can be reached.

    Args:
        name: a folder, a URL such as `s3://bucket/model` (copied once to the cache), a registered model such as
            `models:/songsight@champion`, or `owner/name`.
        option: the option that gave it, for the error line.

    Raises:
        UserError: no such folder, nothing at the URL, no such registered model, not a name that the hub could have, or
            a hub name that is neither reachable nor in the hub's cache on this machine.
    """
    if name.startswith(registry.SCHEME):
        name = registry.folder(name, option)
    if urls.is_remote(name):
        return _cached_copy(name, option)
    path = urls.filesystem(name)[1]
    if os.path.isdir(path):
        return path
    if os.path.exists(path):
        raise UserError(f"{option} {name}: should be a folder, not a file")
    if not _HUB_NAME.match(name):
        raise UserError(f"{option} {name}: no such folder")
    if _hub_is_reachable():
        return name
    # The loaders would ask the hub for each file, many times over, before they look into its cache.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(name, local_files_only=True)
    except LocalEntryNotFoundError:
        raise UserError(_nowhere(option, name)) from None


def portable(name: str, option: str = "--model") -> str:
    """A model's name that means the same in another process, on another node and later in the run.

    Local folders become absolute. A registered model becomes the folder or URL of its version: an alias that moves on
    during the run then changes nothing, and workers need neither the store's address nor MLflow. A folder must be one
    that every node reaches, as a folder given by hand must; a URL is fetched by each node itself. Only where the
    server hands out the artifacts does the name stay one of the registry, `models:/name/version`: then each node needs
    `MLFLOW_TRACKING_URI`.

    Args:
        name: what `local_folder` takes, or `local-dir:folder`.
        option: the option that gave it, for the error line.

    Raises:
        UserError: no such registered model.
    """
    if name.startswith(registry.SCHEME):
        return registry.location(name, option)
    bare = name.removeprefix("local-dir:")
    return os.path.abspath(bare) if os.path.isdir(bare) else name


def model_type(folder: str) -> str | None:
    """What a local folder's `config.json` says that it holds: `clap`, `songsight`; None if it says nothing."""
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as handle:
            return json.load(handle).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


@functools.cache
def _hub_is_reachable() -> bool:
    """Whether the hub answers, asked once and briefly; `HF_HUB_OFFLINE` answers for it."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
    return True


def _nowhere(option: str, name: str) -> str:
    return (
        f"{option} {name}: neither a local folder nor reachable on the Hugging Face hub from here; give a folder that "
        f"holds the model, or fetch it where there is a network: `hf download {name}`"
    )


def _cached_copy(url: str, option: str) -> str:
    """Copies a remote folder once; its listing is in the cache's name, so that changed weights are fetched again."""
    fs, path = urls.filesystem(url)
    try:
        listing = fs.find(path, detail=True)
    except Exception as error:  # botocore's errors are no OSErrors
        raise UserError(f"{option} {urls.unreachable(url, error)}") from None
    if not listing:
        raise UserError(f"{option} {url}: nothing is there")
    state = [(name, info.get("size"), str(info.get("ETag") or info.get("mtime"))) for name, info in listing.items()]
    digest = hashlib.sha256(repr((url, sorted(state))).encode()).hexdigest()[:16]
    return cache.entry("models", digest, lambda fresh: urls.fetch_folder(url, fresh))


@contextlib.contextmanager
def explained(option: str, name: str, wanted: str, given: str | None = None) -> Iterator[None]:
    """Turns a loader's failure into one line that says what to do.

    Args:
        option: the option that named the model.
        name: what it named: a folder or a hub name.
        wanted: what the loader looks for, in words.
        given: the name in the user's own words, where it was another one.
    """
    # To import it only for this would take a student, which needs nothing of it, half a second longer to load.
    if os.path.isdir(name) and "transformers" in sys.modules:
        # A bar for a load of a second; downloads keep theirs.
        sys.modules["transformers"].logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())
        if os.path.isdir(name):
            raise UserError(f"{option} {given or name}: this folder is not {wanted}: {why[:300]}") from error
        raise UserError(f"{option} {name}: the hub holds no {wanted} by that name: {why[:300]}") from error


def fingerprint(module: nn.Module) -> str:
    """A hash of a model's weights, whatever file or name they came by: 16 hex digits of SHA-256."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data if tensor.ndim else b"")
        if not tensor.ndim:
            digest.update(str(tensor.item()).encode())
    return digest.hexdigest()[:16]
