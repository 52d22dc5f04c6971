"""Lets ``pytest --model=… --reference=…`` decide on candidates, as a user would."""

import json
import math
import re
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
        """What is found of each, in one process; again without one that a refusal names."""
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
        if run.returncode == UNUSABLE:
            sentence = said(run.stdout + run.stderr)
            named = [folder for folder in folders if re.search(rf"\b{folder.name}\b", sentence)]
            refused = (named or folders)[0]
            rest = [folder for folder in folders if folder != refused]
            if not named and rest:  # whose fault it is, is not said
                return {f: found for f in folders for found in self.decide([f]).values()}
            others = self.decide(rest) if rest else {}
            return {**others, refused: {"outcome": "refused", "said": sentence}}
        if not report.exists():
            raise RuntimeError(run.stdout + run.stderr)
        found = json.loads(report.read_text())["checkpoints"]
        return {Path(each["reference"]): summary(each) for each in found}


def said(text: str) -> str:
    """The last line, a refusal; of paths, the last part."""
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(re.sub(r"\S*/", "", word) for word in lines[-1].split())[:240]


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
