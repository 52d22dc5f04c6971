"""Lets ``pytest --model=… --reference=…`` decide on candidates, as a user would."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNUSABLE = 4
"""pytest's exit code when a run is refused before any test."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How candidates are vetted.

    Attributes:
        reference: as the user names it.
        corpus: likewise.
        work: a folder for reports and the store.
        options: more of them.
    """

    reference: str
    corpus: str
    work: Path
    options: tuple[str, ...] = ()

    def decide(self, folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
        """What is found of each candidate, all in one process; alone where a run is refused."""
        report = self.work / "gate.json"
        report.unlink(missing_ok=True)
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--model={folder}" for folder in folders),
            *(f"--reference={self.reference}", f"--robustness-corpus={self.corpus}"),
            *(f"--robustness-store={self.work / 'store'}", f"--robustness-json={report}"),
            *("--robustness-examples=0", *self.options),
        ]
        place = self.work / "empty"
        place.mkdir(exist_ok=True)
        run = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if run.returncode == UNUSABLE and len(folders) > 1:
            alone = [self.decide([folder]) for folder in folders]
            return {folder: found for each in alone for folder, found in each.items()}
        if run.returncode == UNUSABLE:
            return {folders[0]: {"outcome": "refused", "said": said(run.stdout + run.stderr)}}
        if not report.exists():
            raise RuntimeError(run.stdout + run.stderr)
        found = json.loads(report.read_text())["checkpoints"]
        return {Path(each["reference"]): summary(each) for each in found}


def said(text: str) -> str:
    """The last sentence of a refusal, without the names of folders."""
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(word for word in lines[-1].split() if "/" not in word)[:200]


def summary(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Outcome of a checkpoint, and of each check its outcome, what it measured and text blocks."""
    checks: dict[str, list[Any]] = {}
    for check in checkpoint["checks"]:
        name = check["id"].rpartition("::")[2].removeprefix("test_").partition("[")[0]
        if name in checks:
            name = f"{name}, {'+'.join(map(str, check['dims'])) or 'more'}"
        checks[name] = [check["outcome"], figure(check["measured"]), check["seen"]]
    failed = any(outcome not in ("pass", "not applicable") for outcome, *_ in checks.values())
    return {"outcome": "fail" if failed else "pass", "checks": checks}


def figure(value: Any) -> Any:
    """Four digits of a number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return value
    return float(f"{value:.4g}")
