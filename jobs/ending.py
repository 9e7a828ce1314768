"""End a command's process without the interpreter taking its memory apart.

Arrow reads in threads of its own, and such a thread may still hold a Python file or buffer when the answer has long
been given. Python 3.11 ends a thread that asks for the interpreter's lock while the interpreter takes itself apart,
here inside a C++ function that must not be left that way, and the process aborts: a job that said in one clear line
what was wrong then exits with 134 instead of 2 (https://github.com/apache/arrow/issues/34314). So everything that is
to happen at the end does happen, in the interpreter's own order, and the memory is left to the system, which frees it
at once.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """Ends the process with this exit code, behind its threads (daemons excepted), exit functions and open output.

    The code is another one where what was printed cannot be written: 141 where its reader went away, else 1 and a line
    that says why.
    """
    # What Py_FinalizeEx does first. Both names are CPython's own; there is no public way.
    with contextlib.suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    except OSError as error:
        print(f"songsight: error: what was printed cannot be written: {error.strerror}", file=sys.stderr)
        code = 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)
