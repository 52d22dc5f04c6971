"""torch and transformers: their versions without an import, and their import, late and in one go.

A second run needs neither.
"""

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version

MODULE = "transformers.modeling_utils"
"""What the import of every model of transformers begins with."""

_LASTING = ContextVar("_LASTING", default=False)


def library_versions() -> dict[str, str]:
    """Versions of what computes the numbers, from package metadata: nothing is imported."""
    versions = {}
    for name in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def name_clash() -> str:
    """What is wrong where another distribution installs the same import name; empty if none does.

    Which of two files called ``robustness/__init__.py`` is there depends on what came last, and to
    uninstall one distribution takes it from the other.
    """
    try:
        other = version("robustness")
    except PackageNotFoundError:
        return ""
    return (
        f"the package 'robustness' {other} from PyPI is installed beside 'pytest-robustness', and "
        "both are imported as 'robustness': uninstall both, then install pytest-robustness alone"
    )


def load_libraries() -> None:
    """Import torch and what all of transformers' models need, without garbage collection.

    They leave half a million objects, which live as long as the process, and the collector looks
    at them again and again: that takes a quarter of the time of their import.
    """
    if MODULE in sys.modules:
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers.modeling_utils  # noqa: F401
    finally:
        if _LASTING.get():
            gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def lasting_libraries() -> Iterator[None]:
    """While inside, whatever is alive when the libraries are loaded is never looked at again.

    For the start of a process, before there is anything that could become garbage. It saves 0.2 s
    at every full collection, of which pytest asks for five when it ends, and 0.9 s at the end.
    """
    token = _LASTING.set(True)
    try:
        yield
    finally:
        _LASTING.reset(token)
