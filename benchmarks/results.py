"""What the benchmarks share: rows of tables, and the file that measurements are kept in."""

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def row(*cells: object) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(map(str, cells))} |"


def header(*names: str) -> tuple[str, str]:
    """The first two rows of a table."""
    return row(*names), "|---" * len(names) + "|"


def section(about: str, *lines: str) -> str:
    """A section of RESULTS.md: the command that was given, what it ran on, and its lines."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return "\n".join(["", f"## `{command}`", "", about, "", *lines, ""])


def keep(text: str, *, write: bool) -> None:
    """Print a section, and append it to RESULTS.md if that was asked for."""
    print(text)
    if write:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(text)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of installed packages."""
    return {name: version(name) for name in packages}


def conditions(versions: Mapping[str, str], device: str = "cpu") -> str:
    """Date, machine and versions, in one line."""
    listed = ", ".join(f"{name} {number}" for name, number in versions.items())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {platform.machine()}, {_processor()}, {cores} cores"
        f"{_accelerator(device)}; {listed}; float32"
    )


def _accelerator(device: str) -> str:
    if device == "cpu":
        return ""
    import torch

    return f", {torch.cuda.get_device_name(device)}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
