"""What the speed benchmark measures: checkpoints with their texts, in processes it watches."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from vet_checkpoints import SMOLLM2

PROCESS = Path(__file__).with_name("speed_process.py")
LOOK_EVERY_S = 2.0
RANDOM_DRAWS = 10


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint with its text.

    Attributes:
        name: in the table.
        model: ``--model``.
        text: file of the corpus.
        column: of a table; ``None`` for running text.
        dims: its outlier dimensions under ``policy``; without any, the suite measures the intact
            model alone, and the script ten random draws besides.
        policy: lines of a policy file.
        share: text blocks on which the plain script is measured.
        device: ``--robustness-device``, and the plain script's.
    """

    name: str
    model: str
    text: Path
    dims: tuple[int, ...]
    column: str | None = None
    policy: tuple[str, ...] = ()
    share: int = 32
    device: str = "cpu"

    @property
    def corpus(self) -> str:
        """``--robustness-corpus``."""
        return f"{self.text}:{self.column}" if self.column else str(self.text)

    @property
    def n_measured(self) -> int:
        """Text blocks to measure, which a GPU takes in less than a CPU's tick."""
        return self.share if self.device == "cpu" else 16 * self.share

    @property
    def plain_conditions(self) -> int:
        """Intact, each outlier alone, all together, random draws."""
        return 1 + len(self.dims) + (len(self.dims) > 1) + RANDOM_DRAWS


def subjects(shared: Path, device: str = "cpu") -> dict[str, Subject]:
    """The checkpoints, by part."""
    models, data = shared / "models", shared / "data"
    found = {
        "smollm2": Subject(
            name="SmolLM2-135M, WikiText-2 test",
            model=SMOLLM2,
            text=data / "wikitext-2-raw" / "wiki.test.raw",
            dims=(100, 247, 507),
            share=16,
        ),
        "rxnfp": Subject(
            name="rxnfp BERT, reactions",  # no outlier dimensions: intact and ten random draws
            model=str(models / "rxnfp-bert-mlm"),
            text=data / "rxnmapper_example_rxns.csv",
            column="rxn",
            dims=(),
            share=128,
        ),
        "sapiens": Subject(
            name="sapiens RoBERTa",
            model=str(models / "sapiens-roberta-vl"),
            text=data / "antibody-light.fa",
            dims=(92, 112),
        ),
    }
    return {name: replace(subject, device=device) for name, subject in found.items()}


def saved(kind: str, folder: Path, shared: Path, device: str) -> Subject:
    """A random checkpoint, written into a folder, on WikiText-2."""
    text = shared / "data" / "wikitext-2-raw" / "wiki.test.raw"
    dims = (7, 11) if kind == "tiny" else (308, 381)
    found = measured(
        "saved", kind=kind, folder=str(folder), text=str(text), dims=dims, device=device
    )
    name = f"random {kind}, {found['parameters'] / 1e6:.0f} M, WikiText-2 test"
    return Subject(name=name, model=str(folder), text=text, dims=dims, device=device)


@dataclass(kw_only=True)
class Report:
    """Lines of the tables."""

    lines: list[str] = field(default_factory=list)

    def add(self, *lines: str) -> None:
        """Keep lines and show them at once."""
        self.lines += lines
        print("\n".join(lines), flush=True)


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process that has ended, with its descendants.

    Attributes:
        seconds: from its start to its end.
        peak_mb: largest resident memory of one process.
        together_mb: most that all processes held together; ``None`` if there was only one.
        output: what it wrote.
        returncode: its exit code.
    """

    seconds: float
    peak_mb: float
    together_mb: float | None
    output: str
    returncode: int

    @property
    def memory(self) -> str:
        """For a table."""
        together = "" if self.together_mb is None else f" (together {self.together_mb:.0f})"
        return f"{self.peak_mb:.0f}{together}"


class Together:
    """Watches what a process and its descendants hold: sums of proportional set sizes."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._most: dict[bool, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """The most that several processes held at a time, in MB."""
        self._ended.set()
        self._thread.join()
        return self._most[True] / 1024**2 if True in self._most else None

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            with suppress(psutil.Error):
                processes = [self._process, *self._process.children(recursive=True)]
                held = sum(process.memory_full_info().pss for process in processes)
                several = len(processes) > 1
                self._most[several] = max(self._most.get(several, 0), held)


def run(command: Sequence[str], folder: Path) -> Process:
    """Run a command; ``wait4`` tells the peak of its largest process."""
    with (folder / "output.txt").open("w+", encoding="utf-8") as stream:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, env=_environment()
        )
        together = Together(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        stream.seek(0)
        return Process(
            seconds=seconds,
            peak_mb=usage.ru_maxrss / 1024,
            together_mb=together.stop(),
            output=stream.read(),
            returncode=process.returncode,
        )


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def measured(
    script: str, *, file: Path = PROCESS, python: str = sys.executable, **options: Any
) -> dict[str, Any]:
    """What speed_process.py, or another file, found out in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(file), script, json.dumps(options)]
        process = run(command, Path(folder))
    if process.returncode:
        raise RuntimeError(process.output)
    found: dict[str, Any] = json.loads(process.output.strip().splitlines()[-1])
    return found


def vet(
    subject: Subject, folder: Path, store: str, *options: str
) -> tuple[Process, dict[str, Any]]:
    """``pytest --model=…`` as a whole process, and its JSON report."""
    (folder / "policy.toml").write_text("\n".join(subject.policy))
    report = folder / "report.json"
    command = [
        *(sys.executable, "-m", "pytest", "-q", f"--model={subject.model}"),
        *(f"--robustness-corpus={subject.corpus}", f"--robustness-store={folder / store}"),
        *(f"--robustness-json={report}", "--robustness-policy=policy.toml"),
        *(f"--robustness-device={subject.device}", *options),
    ]
    process = run(command, folder)
    if process.returncode not in (0, 1):
        raise RuntimeError(process.output)
    return process, json.loads(report.read_text())


def verdicts(facts: dict[str, Any]) -> list[str]:
    """Verdicts in the order of the checks."""
    return [check["outcome"] for each in facts["checkpoints"] for check in each["checks"]]
