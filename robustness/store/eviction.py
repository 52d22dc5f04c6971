"""A bound on the store's size: what has not been used for the longest time goes first.

Units are a checkpoint's converted weights and all measured numbers of one context. What was used
within the last hour stays, whatever the bound: another process may be about to open it. Files that
are open or memory-mapped already outlive their removal.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from robustness.store.files import temporary_folder

GIGABYTE = 10**9
IN_USE_S = 3600.0
"""How long something counts as being used."""

_KEPT_IN = ("gguf", "float32", "pickle", "merged", "v1")


def mark_used(folder: Path) -> None:
    """Remember that a unit is in use: a folder's own time changes with nothing inside it."""
    with suppress(OSError):  # a store of somebody else's
        os.utime(folder)


def evict(root: Path, *, limit_bytes: int, now: float) -> list[Path]:
    """Remove the least recently used units until the store is within its bound; say which."""
    units = sorted(_units(root))
    excess = sum(n_bytes for _, n_bytes, _ in units) - limit_bytes
    removed = []
    for used, n_bytes, folder in units:
        if excess <= 0 or now - used < IN_USE_S:
            break
        if _remove(folder):
            removed.append(folder)
            excess -= n_bytes
    return removed


def _units(root: Path) -> Iterator[tuple[float, int, Path]]:
    """When each was used, its bytes, and its folder, which is kept or removed as a whole."""
    for kind in _KEPT_IN:
        folders: list[Path] = []
        with suppress(OSError):  # a store of somebody else's
            folders = sorted((root / kind).glob("*"))
        for folder in folders:
            with suppress(OSError):  # removed by another process meanwhile
                if folder.is_dir() and not folder.name.startswith("."):
                    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                    yield folder.stat().st_mtime, size, folder


def _remove(folder: Path) -> bool:
    """Remove a folder so that another process sees all of it or none."""
    try:
        with FileLock(f"{folder}.lock", timeout=0):  # nobody is writing it right now
            grave = temporary_folder(folder)
            folder.replace(grave / folder.name)
            shutil.rmtree(grave, ignore_errors=True)
    except (OSError, Timeout):
        return False
    return True
