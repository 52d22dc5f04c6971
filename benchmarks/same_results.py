"""Show that a change of the code has changed no result: the same runs with both, number by number.

    python benchmarks/same_results.py run TREE OUT_DIR [--shared ../shared] [--only NAME] [--whole]
    python benchmarks/same_results.py compare BEFORE_DIR AFTER_DIR [--digits 10] [--show 5]

``run`` takes the code of ``TREE`` (a checkout of any commit), starts from an empty store and keeps
of every run its JSON report, its terminal output, its exit code and its duration. ``--only`` makes
single runs anew, in the store that is there. ``compare`` prints a row for every run and exits with
1 where anything differs: verdicts, counts and names must be equal, numbers agree in their first
``--digits`` digits; what only the later code says is counted as new. What a report says is read
by one function for each schema, into names that no schema decides; sentences, times, paths and
versions are left out.

Runs read the checkpoints and texts in the shared folder, SmolLM2 and MiniLM, and what is made of
these beforehand (``same_results_runs.py``). ALBERT reads all reactions only with ``--whole``: its
factor is not decided before the end of the text, and with all of it that can take an hour.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from results import header, row
from same_results_reports import READERS, Flat, Leaf
from same_results_runs import SMILES, Run, prepare, runs

VERDICTS = (0, 1)
"""Exit codes of a run that came to its end."""

# ---------------------------------------------------------------- running


def run_all(tree: Path, out: Path, shared: Path, only: Sequence[str], *, whole: bool) -> None:
    """Make all runs, or those that are wanted, and keep what came out.

    Raises:
        SystemExit: the store is not empty, or the code is not that of the tree.
    """
    if not only and (out / "store").exists():
        raise SystemExit(f"{out / 'store'} exists; name a new folder, or runs with --only")
    reactions = shared / "data" / SMILES if whole else out / "reactions.csv"
    every = list(runs(tree, shared, out, reactions))
    wanted = [each for each in every if each.name in only] if only else every
    if not wanted:
        raise SystemExit(f"no such run; known: {', '.join(each.name for each in every)}")
    environment = environment_of(tree)
    out.mkdir(parents=True, exist_ok=True)
    prepare(shared, out)
    print(*header("run", "exit code", "seconds"), sep="\n", flush=True)
    for each in wanted:
        status, seconds = execute(each, out, environment)
        print(row(each.name, status, f"{seconds:.0f}"), flush=True)


def environment_of(tree: Path) -> dict[str, str]:
    """In which Python takes the code of a tree, and nothing else decides anything.

    Raises:
        SystemExit: it takes other code.
    """
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_"))}
    environment = {**mine, "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-P", "-c", "import robustness; print(robustness.__file__)"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if Path(found.stdout.strip()).parents[1] != tree:
        raise SystemExit(f"Python takes {found.stdout.strip()}, not the code of {tree}")
    return environment


def execute(run: Run, out: Path, environment: Mapping[str, str]) -> tuple[int, float]:
    """One process, in an empty folder: its exit code and seconds, which are kept, too."""
    report, process = out / f"{run.name}.json", out / f"{run.name}.process"
    for old in (report, process):
        old.unlink(missing_ok=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", run.module, *run.arguments]
        found = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, check=False
        )
    seconds = time.perf_counter() - began
    if run.prints_json:
        report.write_text(found.stdout, encoding="utf-8")
    (out / f"{run.name}.txt").write_text(found.stdout + found.stderr, encoding="utf-8")
    facts = {"exit_code": found.returncode, "seconds": round(seconds, 1)}
    process.write_text(json.dumps(facts), encoding="utf-8")
    return found.returncode, seconds


# ---------------------------------------------------------------- comparing


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is left of a run: what it says, its exit code and its seconds."""

    values: Flat
    exit_code: int
    seconds: float


def kept(folder: Path, name: str) -> Kept | None:
    """A run's results, if it was made.

    Raises:
        SystemExit: its report has a schema that is not known.
    """
    process, report = folder / f"{name}.process", folder / f"{name}.json"
    if not process.exists():
        return None
    values: Flat = {}
    if report.exists():
        facts = json.loads(report.read_text(encoding="utf-8"))
        kind = "trace" if "steps" in facts else "run"
        if (kind, facts["schema"]) not in READERS:
            raise SystemExit(f"{report}: a {kind} of schema {facts['schema']} is not known")
        values = READERS[kind, facts["schema"]](facts)
    return Kept(values=values, **json.loads(process.read_text(encoding="utf-8")))


def digits(one: Leaf | None, other: Leaf | None) -> float:
    """In how many digits two values agree: infinitely many if they are equal, 0 of other kinds."""
    equal = one == other or str(one) == str(other) == "nan"
    if equal and isinstance(one, bool) == isinstance(other, bool):
        return math.inf
    if not (isinstance(one, float) and isinstance(other, float) and math.isfinite(one - other)):
        return 0.0
    return max(0.0, -math.log10(abs(one - other) / max(abs(one), abs(other))))


def compare(before: Path, after: Path, needed: float, show: int) -> bool:
    """Print a row for each run, and what differs; whether nothing does."""
    names = sorted({file.stem for each in (before, after) for file in each.glob("*.process")})
    print(
        *header("run", "exit code", "seconds", "values", "new", "differ", "agreeing digits"),
        sep="\n",
    )
    differing: list[str] = []
    for name in names:
        cells, found = compared(kept(before, name), kept(after, name), needed, show)
        print(row(name, *cells))
        differing += [f"{name}: {each}" for each in found]
    same = bool(names) and not differing
    print("", *differing, "nothing differs" if same else "NOT THE SAME", sep="\n")
    return same


def compared(
    one: Kept | None, other: Kept | None, needed: float, show: int
) -> tuple[list[str], list[str]]:
    """The cells of a run's row, and what differs: verdicts first, what is missing last."""
    if one is None or other is None:
        return ["-"] * 6, [f"was not run {'before' if one is None else 'after'}"]
    keys = sorted(one.values.keys() | other.values.keys())
    agree = {key: digits(one.values.get(key), other.values.get(key)) for key in keys}
    in_both = one.values.keys() & other.values.keys()
    new = other.values.keys() - one.values.keys()
    wrong = [key for key in keys if agree[key] < needed and key not in new]
    wrong.sort(key=lambda key: (key not in in_both, not key.endswith("verdict"), agree[key]))
    found = [f"{key}: {one.values.get(key)} → {other.values.get(key)}" for key in wrong[:show]]
    codes = str(one.exit_code)
    if one.exit_code != other.exit_code:
        codes += f" → {other.exit_code}"
        found.insert(0, f"exit code {codes}")
    elif one.exit_code not in VERDICTS:
        found.insert(0, f"exit code {codes}, which is no verdict")
    least = min((agree[key] for key in in_both), default=math.inf)
    exact = "all" if least == math.inf else f"{math.floor(least)}"
    seconds = f"{one.seconds:.0f} → {other.seconds:.0f}"
    return [codes, seconds, str(len(in_both)), str(len(new)), str(len(wrong)), exact], found


def main() -> None:
    """Run everything, or compare what two runs of everything have left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run everything with the code of a tree")
    running.add_argument("tree", type=Path, help="a checkout of the code")
    running.add_argument("out", type=Path, help="a new folder for what comes out")
    default = Path(__file__).resolve().parents[2] / "shared"
    running.add_argument("--shared", type=Path, default=default, help="models and data")
    running.add_argument("--only", action="append", default=[], help="a run's name; repeatable")
    running.add_argument("--whole", action="store_true", help="all reactions for ALBERT, too")
    comparing = commands.add_parser("compare", help="compare two such folders")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--digits", type=float, default=10, help="in which numbers must agree")
    comparing.add_argument("--show", type=int, default=5, help="differences of each run, at most")
    given = parser.parse_args()
    if given.command == "run":
        tree, out, shared = given.tree.resolve(), given.out.resolve(), given.shared.resolve()
        run_all(tree, out, shared, given.only, whole=given.whole)
    elif not compare(given.before, given.after, given.digits, given.show):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
