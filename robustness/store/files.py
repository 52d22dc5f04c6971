"""Files that other processes read or write at the same time."""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any


def write_atomically(file: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or none, also after an OSError."""
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


def missing_folder(place: Path) -> Path | None:
    """The outermost folder above a file or folder that is not there yet, if there is any."""
    missing = [folder for folder in place.absolute().parents if not os.path.exists(folder)]  # noqa: PTH110 (false where it may not be looked into)
    return missing[-1] if missing else None


def remember(file: Path, facts: Mapping[str, Any]) -> None:
    """Write a few facts (JSON types) with their checksum, as :func:`write_atomically` does."""
    write_atomically(file, json.dumps({"facts": facts, "sha256": _checksum(facts)}))


def recall(file: Path) -> dict[str, Any] | None:
    """What :func:`remember` wrote; None where it is missing, or not exactly that."""
    try:
        value = json.loads(file.read_bytes())
        facts: dict[str, Any] = value["facts"]
        intact = isinstance(facts, dict) and value["sha256"] == _checksum(facts)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if intact else None


def _checksum(facts: Mapping[str, Any]) -> str:
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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


def linked_elsewhere(folder: Path, files: Iterable[Path]) -> list[Path]:
    """Those files of a folder that are links to others, which lie outside of it.

    The blobs beside a snapshot in a Hub cache, named by their content, are a part of it.
    """
    real = folder.resolve(strict=True)
    own = [real]
    own += [parent.parent / "blobs" for parent in real.parents if parent.name == "snapshots"]
    return [
        file
        for file in files
        if not any(file.resolve(strict=True).is_relative_to(place) for place in own)
    ]


def stamp(files: Iterable[Path]) -> str:
    """Changes when one of the files is written or replaced: a digest of size, time and inode."""
    facts = []
    for file in sorted(files):
        status = file.stat()
        facts.append(f"{file.name} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
    return sha256("\n".join(facts).encode()).hexdigest()
