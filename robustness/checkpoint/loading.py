"""What every call into transformers needs: silence, one-sentence errors, room for the weights."""

import contextlib
import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustness.errors import CheckpointError, RobustnessError
from robustness.runtime.libraries import load_libraries

_MAX_REASON = 200  # characters of a library's own message that a sentence can carry
_ADVICE = "it is damaged or needs another version of transformers; download or save it again"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' log, progress bars and Python warnings; on exit all is as before."""
    load_libraries()
    from transformers.utils import logging as transformers_logging

    hf: Any = transformers_logging  # partly untyped
    verbosity, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity(logging.CRITICAL)
    hf.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf.set_verbosity(verbosity)
        if bars:
            hf.enable_progress_bar()


@contextlib.contextmanager
def loading_errors(what: str, *, advice: str = _ADVICE) -> Iterator[None]:
    """Turn whatever a library raises about a checkpoint into one sentence.

    Args:
        what: Subject of the sentence, such as ``The tokenizer of ./folder``.
        advice: End of the sentence: what to do about it.

    Raises:
        CheckpointError: Instead of any other exception.
    """
    try:
        yield
    except RobustnessError:
        raise
    except ImportError as error:
        raise CheckpointError(
            f"{what} needs a package that is not installed ({reason(error)}): install it."
        ) from error
    except Exception as error:  # anything, since the input may be hostile
        raise _explained(error, what, advice) from error
    except BaseException as error:
        # A panic in Rust (tokenizers, safetensors) is no Exception, yet comes from the input.
        if type(error).__name__ != "PanicException":
            raise
        raise _explained(error, what, advice) from error


def _explained(error: BaseException, what: str, advice: str) -> CheckpointError:
    message = str(error)
    if "trust_remote_code" in message:
        return CheckpointError(
            f"{what} needs code that comes with the checkpoint, and such code is never run: "
            "only architectures that transformers itself contains can be vetted."
        )
    if isinstance(error, MemoryError) or "allocate memory" in message:
        return CheckpointError(
            f"{what} asks for more memory than there is: use a larger machine, or check its sizes."
        )
    return CheckpointError(f"{what} cannot be loaded ({reason(error)}): {advice}.")


def reason(error: BaseException) -> str:
    """The first sentence of a library's message: one line, printable, short, no full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"missing key {text}"
    text = re.split(r"(?<=\w[.!?]) (?=[A-Z])", text)[0]
    text = "".join(character if character.isprintable() else "?" for character in text)
    if len(text) > _MAX_REASON:
        text = f"{text[:_MAX_REASON].rstrip()} …"
    return text.rstrip(".:")


def require_memory(n_bytes: int, *, what: str) -> None:
    """Refuse what cannot fit into free memory.

    Raises:
        CheckpointError: Fewer bytes are available.
    """
    import psutil  # type: ignore[import-untyped]

    available = psutil.virtual_memory().available
    if n_bytes > available:
        raise CheckpointError(
            f"{what} needs {n_bytes / 1e9:.1f} GB of memory in float32, only "
            f"{available / 1e9:.1f} GB are free: close other programs or use a larger machine."
        )


def require_disk(n_bytes: int, folder: Path, *, what: str) -> None:
    """Refuse to write what cannot fit on the disk.

    Raises:
        CheckpointError: Fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise CheckpointError(
            f"{what} writes {n_bytes / 1e9:.1f} GB to {folder}, where {free / 1e9:.1f} GB are "
            "free: make room or choose another store."
        )
