"""Files that other processes read or write at the same time."""

import os
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path


def write_atomically(file: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none.

    Raises:
        OSError: The folder cannot be written, or the disk is full; nothing is left behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp's 0600 would hide it from other users
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def temporary_folder(beside: Path) -> Path:
    """A new folder beside another, readable by whom new folders are readable by."""
    beside.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=beside.parent, prefix=".writing-"))
    folder.chmod(0o777 & ~_umask())
    return folder


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def stamp(files: Iterable[Path]) -> str:
    """Changes when one of the files is written or replaced: a digest of size, time and inode.

    Raises:
        OSError: A file is gone.
    """
    facts = []
    for file in sorted(files):
        status = file.stat()
        facts.append(f"{file.name} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
    return sha256("\n".join(facts).encode()).hexdigest()
