"""A folder of the store that is made once, whoever needs it first: all of it or nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path

from robustness.checkpoint.loading import require_disk
from robustness.errors import CheckpointError
from robustness.store.eviction import mark_used
from robustness.store.files import temporary_folder


def made_once(folder: Path, make: Callable[[Path], None], *, n_bytes: int, what: str) -> None:
    """Make a folder under a lock, unless it is there.

    Args:
        folder: Named by the content that it is made from.
        make: Fills an empty folder, which is then moved into place.
        n_bytes: What that writes.
        what: Is made, for messages.

    Raises:
        CheckpointError: It cannot be written.
    """
    from filelock import FileLock

    if folder.is_dir():
        mark_used(folder)
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        require_disk(n_bytes, folder.parent, what=f"Converting {what}")
        with FileLock(f"{folder}.lock"):
            if folder.is_dir():
                return
            temporary = temporary_folder(folder)
            try:
                make(temporary)
                temporary.replace(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(
            f"{what} cannot be converted: {folder.parent} cannot be written "
            f"({error.strerror or error}); name another folder with --robustness-store."
        ) from error
