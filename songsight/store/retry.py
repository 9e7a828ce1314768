"""How long a store that fails is waited for, before a recording is given up."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from songsight.reasons import StorageError, from_storage

T = TypeVar("T")

PAUSES_S = (1.0, 4.0, 16.0)
"""Behind the first, second and third failure in a row; behind the next the recording is given up."""

_LASTING = {errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}
"""What a file system answers that it will answer a moment later too."""


def patiently(action: Callable[[], T]) -> T:
    """What an action returns, tried again where the storage failed.

    Raises:
        StorageError: it failed behind the last pause too.
    """
    for pause_s in PAUSES_S:
        try:
            return action()
        except StorageError:
            time.sleep(pause_s)
    return action()


def persistently(action: Callable[[], T]) -> T:
    """What reading or writing something of our own returns, tried again where the storage failed.

    Raises:
        Exception: what the last try raised; at once what waiting does not mend: not there, not allowed, not a folder.
    """
    for pause_s in PAUSES_S:
        try:
            return action()
        except Exception as error:  # botocore's errors are no OSErrors
            if getattr(error, "errno", None) in _LASTING or not isinstance(from_storage(error), StorageError):
                raise
            time.sleep(pause_s)
    return action()
