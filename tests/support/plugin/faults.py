"""Accidents, caused by a plugin in the processes of a run: ``-p faults`` and environment variables.

They strike when chunks are written to the store, so that nothing depends on how one is measured.
"""

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.plugin.plugin_support import Run, run_suite

PLUGIN = """
import errno, json, os, signal
from pathlib import Path

from robustness.store.store import Store

FAULT, AT = os.environ.get("FAULT", ""), int(os.environ.get("FAULT_AT", "0"))
LOG, STORE = Path(os.environ["FAULT_LOG"]), os.environ["FAULT_STORE"]
SIGNALS = {
    "kill this": (os.getpid, signal.SIGKILL),
    "interrupt this": (os.getpid, signal.SIGINT),
    "interrupt controller": (os.getppid, signal.SIGINT),
}
ERRORS = {"full": errno.ENOSPC, "read-only": errno.EROFS}


def log(line):
    with LOG.open("a") as stream:
        stream.write(line + "\\n")


def n_logged():
    return len(LOG.read_text().splitlines()) if LOG.exists() else 0


def write(self, key, record, original=Store.write):
    if "chunk" not in key:
        return original(self, key, record)
    if FAULT in SIGNALS and n_logged() + 1 == AT:
        log("struck")
        whose, number = SIGNALS[FAULT]
        os.kill(whose(), number)
    if FAULT == "memory" and n_logged() + 1 >= AT:
        raise MemoryError("DefaultCPUAllocator: can't allocate memory")
    log(json.dumps([key["chunk"], key["id"]]))
    return original(self, key, record)


Store.write = write


def strikes(path):
    under = os.path.abspath(os.fsdecode(path)).startswith(STORE)
    return FAULT in ERRORS and under and n_logged() >= AT


def open_(path, flags, *args, original=os.open, **options):
    if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and strikes(path):
        raise OSError(ERRORS[FAULT], os.strerror(ERRORS[FAULT]), path)
    return original(path, flags, *args, **options)


def mkdir(path, *args, original=os.mkdir, **options):
    if strikes(path):
        if os.path.isdir(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        raise OSError(ERRORS[FAULT], os.strerror(ERRORS[FAULT]), path)
    return original(path, *args, **options)


os.open, os.mkdir = open_, mkdir
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A store and what was written to it.

    Attributes:
        root: folder of the runs.
        options: what they vet, and on which text.
    """

    root: Path
    options: tuple[str, ...]

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def written(self) -> Counter[str]:
        """How often each chunk was measured, by all runs so far."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line for line in lines if line != "struck")

    def records(self) -> list[Path]:
        """Files of measured chunks."""
        found = self.store.glob("v1/*/??/*.json")
        return sorted(file for file in found if "chunk" in json.loads(file.read_text())["key"])

    def environment(self, fault: str = "", at: int = 0) -> dict[str, str]:
        return {
            "FAULT": fault,
            "FAULT_AT": str(at),
            "FAULT_LOG": str(self.log),
            "FAULT_STORE": str(self.store),
        }

    def arguments(self, *more: str) -> tuple[str, ...]:
        return ("-p", "faults", *self.options, f"--robustness-store={self.store}", *more)

    def folder(self, name: str) -> Path:
        """A new folder to run in, with the plugin."""
        folder = self.root / name
        folder.mkdir(parents=True)
        (folder / "faults.py").write_text(PLUGIN)
        return folder

    def run(
        self, monkeypatch: pytest.MonkeyPatch, name: str, *more: str, fault: str = "", at: int = 0
    ) -> Run:
        """A run in which a fault strikes when so many chunks have been written; or none does."""
        with monkeypatch.context() as patch:
            for variable, text in self.environment(fault, at).items():
                patch.setenv(variable, text)
            # A worker that starts warm is no child of its controller.
            python = sys.executable if fault == "interrupt controller" else None
            return run_suite(self.folder(name), *self.arguments(*more), python=python)


def measured(facts: dict[str, Any]) -> dict[str, Any]:
    """What a report says of its checks and perplexities, without what may differ between places."""
    kept = ("label", "intact", "outliers", "checks")
    return {
        checkpoint["label"]: {key: checkpoint[key] for key in kept}
        for checkpoint in facts["checkpoints"]
    }


def environment_with(**variables: str) -> dict[str, str]:
    """Of a process started by hand, as :func:`plugin.plugin_support.run_python` starts it."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "HF_HUB_OFFLINE": "1", "PY_COLORS": "0", **variables}
