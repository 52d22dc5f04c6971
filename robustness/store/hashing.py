"""Content hashes of files, remembered so that gigabytes are read once and not once per run.

A record is a small JSON file per hashed path, keyed by (path, size, times, inode) and
written atomically: any number of processes may read and write them at once.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from robustness.errors import CheckpointError
from robustness.store.files import recall, remember

_SLOW_BYTES = 500_000_000  # from here on hashing takes about a second or more: say so
# A file changed twice within the clock's granularity keeps its time stamp; as in git's index, a
# hash of a file this young is not remembered.
_RACY_NS = 2_000_000_000


def file_sha256(
    file: Path, *, memory: Path | None, progress: Callable[[str], None] | None = None
) -> str:
    """Hex sha256 of a file's bytes, from memory where the file has not changed since.

    A file that links to a Hub blob named by its own sha256 is not read at all. Hashes are
    remembered in a folder, if one is named; who waits is told of a file that takes a while.

    Raises:
        CheckpointError: The file cannot be read, or changes while it is.
    """
    try:
        real = file.resolve(strict=True)
        if real.parent.name == "blobs" and _is_sha256(real.name):
            return real.name
        before = real.stat()
        stamp = file_stamp(real, before)
        record = None
        if memory is not None:
            record = memory / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
            if (remembered := _recall(record, stamp)) is not None:
                return remembered
        if progress is not None and before.st_size >= _SLOW_BYTES:
            progress(f"hashing {file.name} ({before.st_size / 1e9:.1f} GB)")
        started = time.time_ns()
        with real.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        after = real.stat()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise CheckpointError(f"{file} changed while it was read: wait until it is written.")
    if record is not None and started - before.st_mtime_ns > _RACY_NS:
        with suppress(OSError):  # what cannot be remembered is hashed again
            remember(record, {"stamp": stamp, "sha256": digest})
    return digest


def file_stamp(real: Path, status: os.stat_result) -> list[str | int]:
    """What changes when a file is written or replaced.

    The time of the last change of status gives away who sets back that of the content.
    """
    return [str(real), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def file_stamps(files: Iterable[Path]) -> tuple[list[list[str | int]], bool]:
    """The stamps of some files, links resolved, and whether all are old enough to show a change.

    Raises:
        CheckpointError: A file is gone.
    """
    stamps, settled = [], True
    for file in sorted(files):
        try:
            real = file.resolve(strict=True)
            status = real.stat()
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
        stamps.append(file_stamp(real, status))
        settled &= time.time_ns() - status.st_mtime_ns > _RACY_NS
    return stamps, settled


def files_hash(files: Iterable[Path], digests: Mapping[Path, str]) -> str:
    """Hex sha256 over the sorted (name, sha256) pairs of files of one folder."""
    lines = sorted(f"{digests[file]}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _recall(record: Path, stamp: list[str | int]) -> str | None:
    """The remembered hash; a missing, damaged or outdated record is none."""
    facts = recall(record)
    if facts is None or facts.get("stamp") != stamp:
        return None
    digest: str = facts["sha256"]
    return digest


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and all(character in "0123456789abcdef" for character in text)
