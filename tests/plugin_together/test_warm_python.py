"""The processes that start warm behave as Python's own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.plugin.warm_python import COLD, warm_python

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or COLD in os.environ, reason="all start as Python itself"
)

SAYS = """
import atexit, json, os, sys
atexit.register(print, "the end")
print(json.dumps([sys.argv, os.getcwd(), sys.path[:2], __name__, "torch" in sys.modules]))
sys.stdout.write(sys.stdin.read())
sys.stderr.write(os.environ["LETTER"])
"""


def result(*arguments: str, folder: Path, **environment: str) -> tuple[int, list[str], str]:
    """Exit code, lines and what went to the error stream."""
    found = subprocess.run(
        [warm_python(), *arguments],
        cwd=folder,
        env={**os.environ, "LETTER": "\N{GREEK SMALL LETTER ALPHA}", **environment},
        input="given\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return found.returncode, found.stdout.splitlines(), found.stderr


def test_code_and_modules_run_as_in_python_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SAYS)
    place = str(tmp_path.resolve())
    for arguments, argv, first in (
        (("-c", SAYS, "a", "-b"), ["-c", "a", "-b"], ""),
        (("-u", "-c", SAYS), ["-c"], ""),
        (("-m", "mine", "a"), [f"{place}/mine.py", "a"], place),
        (("-mmine",), [f"{place}/mine.py"], place),
    ):
        code, lines, error = result(*arguments, folder=tmp_path, PYTHONPATH="/somewhere")
        assert (code, error) == (0, "\N{GREEK SMALL LETTER ALPHA}")
        assert json.loads(lines[0]) == [argv, place, [first, "/somewhere"], "__main__", True]
        assert lines[1:] == ["given", "the end"]


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os; os._exit(9)", 9, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, "KeyboardInt"),
    ],
)
def test_it_ends_as_in_python_itself(code: str, status: int, says: str, tmp_path: Path) -> None:
    found = result("-c", code, folder=tmp_path)
    assert found[0] == status
    assert says in found[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_process(number: int) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen(
        [warm_python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert pid != process.pid
        process.send_signal(number)
        assert process.wait(timeout=30) == -number
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    raise AssertionError("it goes on")


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "HF_HOME", "PYTHONHASHSEED", COLD])
def test_python_itself_runs_what_is_read_on_import(variable: str, tmp_path: Path) -> None:
    code = "import sys; print('torch' in sys.modules, sys.executable)"
    assert result("-c", code, folder=tmp_path)[1] == [f"True {warm_python()}"]
    found = result("-c", code, folder=tmp_path, **{variable: "3"})
    assert found[1] == [f"False {sys.executable}"]
