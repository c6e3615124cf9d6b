"""One training at a time in a work dir: two would delete and overwrite each other's files."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

#: Lies in the work dir while a training runs there, and says which.
_NAME = "training.lock"
#: The files that this process has open, by their paths.
_held: dict[Path, int] = {}


def lock_work_dir(work_dir: str) -> str | None:
    """Take a work dir for this process, until :func:`unlock_work_dir` or its end of any kind.

    It is a POSIX record lock, which other processes of this one do not inherit: the data loader
    workers of a process that was killed live on for some seconds, and must not keep the lock. The
    process that has it may take it again.

    Args:
        work_dir: The folder.

    Returns:
        None, or why there can be no lock: a file system without locks stops no training.

    Raises:
        RuntimeError: If another process has it.
    """
    path = Path(work_dir, _NAME).resolve()
    try:
        import fcntl  # not on Windows

        while True:
            file = _held.pop(path, None)
            if file is None:
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                holder = os.pread(file, 200, 0).decode(errors="replace")
                os.close(file)
                raise RuntimeError(
                    f"another training runs in {work_dir} ({holder}), and the two would delete and "
                    f"overwrite each other's files. Give this one a folder of its own with "
                    f"--work-dir, or stop the other one. If there is no such process, as its "
                    f"machine went down, delete {path}"
                ) from None
            _held[path] = file
            if _is_there(path, file):
                break
            os.close(_held.pop(path))  # the other training has ended, and deleted it meanwhile
        os.ftruncate(file, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}, {since}".encode(), 0)
    except (OSError, ImportError) as error:
        return str(error)
    return None


def unlock_work_dir(work_dir: str) -> None:
    """Give a work dir back, if this process has taken it."""
    path = Path(work_dir, _NAME).resolve()
    file = _held.pop(path, None)
    if file is not None:
        with contextlib.suppress(OSError):  # a file that stays does no harm
            path.unlink(missing_ok=True)
        os.close(file)


def _is_there(path: Path, file: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(file))
    return False
