"""GitHub workflows and actions, in so far as tests read and run them."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


def parsed(text: str) -> dict[str, Any]:
    """YAML, whose ``on`` is a key and no boolean."""
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return {"on" if key is True else key: value for key, value in found.items()}


def action() -> dict[str, Any]:
    return parsed((ROOT / "action.yml").read_text(encoding="utf-8"))


def environment(step: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, str]:
    """A step's variables; each must be text, or one expression that is among the values."""
    found = {}
    for name, text in step.get("env", {}).items():
        expression = EXPRESSION.fullmatch(str(text))
        found[name] = values[expression[1].strip()] if expression else str(text)
    return found


def run_script(
    script: str,
    folder: Path,
    variables: Mapping[str, str],
    *,
    first_in_path: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """A step's script as the runner starts ``shell: bash``, with this interpreter as python."""
    assert not EXPRESSION.search(script), "the runner would paste a value into the script"
    file = folder / "script.sh"
    file.write_text(script)
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("PYTEST_", "GITHUB_", "HF_HOME", "HF_HUB_CACHE"))
    }
    places = [*([str(first_in_path)] if first_in_path else []), str(Path(sys.executable).parent)]
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)],
        cwd=folder,
        env={
            **kept,
            "PATH": os.pathsep.join([*places, os.environ["PATH"]]),
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "RUNNER_TEMP": str(folder / "temp"),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_ACTION_PATH": str(ROOT),
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
