"""What a task does on its node: pytest in a process of its own, and its report brought back.

The only part of a fleet that runs elsewhere: plain types in, plain types out.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustness.fleet.tasks import REPORT

LEASH = Path(__file__).with_name("leash.py")
OUTPUT = "output.txt"
TAIL_BYTES = 20_000
MISSING = (
    "is not there on this node; every node must reach every checkpoint by the same name: use Hub "
    "ids, or a disk that all of them share"
)


def vet(task: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """Vet one checkpoint here: a :class:`robustness.fleet.tasks.Task`, and its files by path.

    Returns:
        ``exit_status`` of pytest (negative: the signal that ended it; ``None``: it was not
        started), its ``report``, JSON text or ``None``, and the last of its ``output``.
    """
    missing = [path for path in task["needs"] if not os.path.exists(path)]  # noqa: PTH110
    if missing:
        return {"exit_status": None, "report": None, "output": f"ERROR: {missing[0]} {MISSING}"}
    with tempfile.TemporaryDirectory(prefix="robustness-fleet-") as name:
        folder = Path(name)
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
        # Its own: pytest would look for settings in the folders above.
        (folder / "pytest.ini").write_text("[pytest]\n")
        exit_status = _run(task, folder)
        report, output = folder / REPORT, folder / OUTPUT
        return {
            "exit_status": exit_status,
            "report": report.read_text(encoding="utf-8") if report.is_file() else None,
            "output": output.read_bytes()[-TAIL_BYTES:].decode(errors="replace"),
        }


def _run(task: Mapping[str, Any], folder: Path) -> int:
    arguments = ("-p", "no:cacheprovider", "--color=no", *task["arguments"])
    # Without what speaks to another pytest.
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    threads = str(task["threads"])
    with (
        (folder / OUTPUT).open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-P", str(LEASH), *arguments],
            cwd=folder,
            env={**kept, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            return process.wait()
        finally:
            process.kill()  # where the wait was interrupted
