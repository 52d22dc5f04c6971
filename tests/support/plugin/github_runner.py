"""What GitHub's runner makes of a step's output: an own reading of its rules, not our code's.

After ``ActionCommand`` in actions/runner: a command is a line that begins with ``::`` once blanks
are taken off, or that holds ``##[`` followed by a name and ``]``.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """What the runner obeys."""

    name: str
    properties: dict[str, str]
    data: str


def obeyed(output: str) -> list[Command]:
    """Every command in an output, in order."""
    return [found for line in re.split("\r\n|\r|\n", output) if (found := _parsed(line))]


def _parsed(line: str) -> Command | None:
    text = line.strip()
    if text.startswith("::"):
        head, end, data = text[2:].partition("::")
        if end:
            name, _, rest = head.partition(" ")
            return Command(name=name, properties=_properties(rest), data=_unescaped(data))
    if found := re.search(r"##\[([^\]]*)\](.*)", line):
        return Command(name=found[1], properties={}, data=found[2])
    return None


def _properties(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    return {
        key.strip(): _unescaped(value.replace("%3A", ":").replace("%2C", ","))
        for key, _, value in pairs
    }


def _unescaped(text: str) -> str:
    return text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
