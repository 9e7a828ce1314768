"""What can be wrong with a recording, in a closed set of words that a table can be grouped by."""

from __future__ import annotations

import errno
import re

REASONS: dict[str, str] = {
    "unreadable": "no decoder understands the file",
    "empty": "the file has no bytes, or a header without a single sample",
    "truncated": "the file is cut short before the first sample that its header promises",
    "no-audio": "a well-formed container without an audio track",
    "too-short": "less sound than one frame of the encoder's spectrogram (21 ms for BioLingual)",
    "not-finite": "samples that are NaN or infinite",
    "silent": "digital silence from end to end",
    "pointer": "a git-LFS or git-annex pointer: the sound itself was never downloaded",
    "permission": "this user may not read the file",
    "vanished": "the file is not there (any more)",
    "storage": "its storage failed again and again while the file was read",
    "crashed": "decoding it ended the whole process, more than once",
    "name": "the file's name is not UTF-8, so that no table can hold it",
    "channel": "the channel that was chosen is beyond those that the file has",
}
"""Every word that `AudioError.reason` and the quarantine's `reason` column can hold, and what it means."""

RETRIED = ("permission", "vanished", "storage")
"""Reasons that may pass: the next run of the same command tries these files again."""

_ADDRESS = re.compile(r"\s*(?:\[[^\[\]]*@ 0x[0-9a-f]+\]|<[^<>]* at 0x[0-9a-f]+>|\b0x[0-9a-f]{6,}\b)", re.IGNORECASE)
_DETAIL_CHARACTERS = 300


class AudioError(Exception):
    """A recording that cannot be used: `reason` is a word of `REASONS`, `detail` one line for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is not a word of REASONS")
        self.reason = reason
        self.detail = one_line(detail)
        super().__init__(reason, self.detail)  # both, so that the error survives pickling between Ray's processes

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class StorageError(AudioError):
    """An `AudioError` that may not be the file's fault: the storage failed, and another try may succeed."""


def one_line(text: str) -> str:
    """A text without line breaks, control characters and memory addresses, at most 300 characters long."""
    printable = "".join(character if character.isprintable() else " " for character in _ADDRESS.sub("", text))
    return " ".join(printable.split())[:_DETAIL_CHARACTERS]


def from_storage(error: Exception) -> AudioError:
    """The `AudioError` for an error of the file system or object store."""
    if isinstance(error, FileNotFoundError):
        return AudioError("vanished", "no such file")
    if isinstance(error, PermissionError):
        return AudioError("permission", "permission denied")
    if getattr(error, "errno", None) == errno.ESPIPE:
        return AudioError("unreadable", "not a regular file")
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StorageError("storage", f"storage failed: {text}")
