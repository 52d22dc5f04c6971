"""Versions of the libraries that numbers depend on."""

from importlib.metadata import PackageNotFoundError, version


def library_versions() -> dict[str, str]:
    """Versions of what computes the numbers, from package metadata: nothing is imported."""
    found = {}
    for name in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
