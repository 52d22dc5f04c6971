"""What the command line asks for, beside the checkpoints."""

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from robustness.policy.policy import Policy, load_policy
from robustness.store.eviction import GIGABYTE
from robustness.store.store import default_root


def require_writable(file: Path, option: str) -> None:
    """Find out before the run that its report could not be written after it.

    Raises:
        pytest.UsageError: if it could not.
    """
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    try:
        if file.exists() and not file.is_file():
            raise FileExistsError("there is something that is no file")
        with NamedTemporaryFile(dir=folder, prefix="."):
            return
    except OSError as error:
        raise pytest.UsageError(
            f"robustness: {option}={file} cannot be written ({error}); name a file in a "
            "folder that can"
        ) from None


def run_policy(config: pytest.Config) -> Policy:
    """The policy of a run: options over a file, looked for where pytest was started first.

    Raises:
        PolicyError: if a file or an option is wrong.
    """
    option = config.getoption
    given = {
        name: option(f"robustness_{name}")
        for name in (
            "corpus", "layout", "block_size", "expectation", "rule", "stack", "site", "mode",
            "confidence", "exhaustive", "seed", "device", "dtype", "masking", "generator",
            "bos", "context", "examples",
        )
    }  # fmt: skip
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if (task := option("robustness_task")) is not None:
        options["task"] = {"data": task}
    enabled = option("robustness_enable") or []
    if enabled:
        options["checks"] = {name.removeprefix("test_"): {"enabled": True} for name in enabled}
    folders = (config.invocation_params.dir, config.rootpath)
    return load_policy(option("robustness_policy"), folders=folders, options=options)


def store_root(config: pytest.Config) -> Path:
    """Folder of the store."""
    chosen: Path | None = config.getoption("robustness_store")
    return default_root() if chosen is None else chosen.absolute()


def store_limit(config: pytest.Config) -> int:
    """Bound on the store's size, in bytes."""
    return int(config.getoption("robustness_store_limit") * GIGABYTE)
