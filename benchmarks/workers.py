"""Several checkpoints in one run: one process, workers, and workers with a checkpoint each.

    python benchmarks/workers.py [--shared ../shared] [--repeats 2] [--write]

Every run is a whole process from an empty store, the best of ``--repeats`` taken in turn. The row
"a checkpoint to a worker" is what a scheduler of the plugin's own could do: no checkpoint is loaded
twice.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from results import conditions, header, keep, row, section
from speed_runs import Process, Report, run, verdicts

from robustness.runtime.libraries import library_versions

GROUPED = """
import pytest
from xdist.scheduler import LoadScopeScheduling

LABELS = {labels!r}

class ByCheckpoint(LoadScopeScheduling):
    def _split_scope(self, nodeid):
        inside = nodeid.partition("[")[2]
        return next(label for label in LABELS if inside.startswith(label))

@pytest.hookimpl(tryfirst=True)
def pytest_xdist_make_scheduler(config, log):
    return ByCheckpoint(config, log)
"""

RUNS: dict[str, tuple[str, ...]] = {
    "one process": (),
    "-n 2 (pytest-xdist's own order)": ("-n", "2"),
    "-n 2 --dist worksteal": ("-n", "2", "--dist", "worksteal"),
    "-n 2, a checkpoint to a worker": ("-n", "2", "-p", "grouped"),
}


def vet(
    models: Sequence[Path], policy: str, options: Sequence[str]
) -> tuple[Process, list[list[str]]]:
    """One run from an empty store, and the verdicts of each checkpoint."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "policy.toml").write_text(policy, encoding="utf-8")
        grouped = GROUPED.format(labels=[model.name for model in models])
        (folder / "grouped.py").write_text(grouped, encoding="utf-8")
        process = run(
            [
                *(sys.executable, "-m", "pytest", "-q", *(f"--model={model}" for model in models)),
                *(f"--robustness-store={folder / 'store'}", "--robustness-policy=policy.toml"),
                *("--robustness-json=report.json", *options),
            ],
            folder,
        )
        if process.returncode not in (0, 1):
            raise RuntimeError(process.output)
        facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return process, [verdicts({"checkpoints": [each]}) for each in facts["checkpoints"]]


def compare(shared: Path, repeats: int, report: Report) -> None:
    """Rows for three small checkpoints, each with text of its own kind."""
    models, data = shared / "models", shared / "data"
    names = ("rxnfp-bert-mlm", "rxnmapper-albert-mlm", "sapiens-roberta-vl")
    policy = "\n".join(
        [
            *('[checkpoints."rxn*"]', f'corpus = "{data / "rxnmapper_example_rxns.csv"}:rxn"'),
            *('[checkpoints."sapiens*"]', f'corpus = "{data / "antibody-light.fa"}"'),
        ]
    )
    best: dict[str, Process] = {}
    reference: list[list[str]] = []
    for _ in range(repeats):
        for label, options in RUNS.items():
            process, found = vet([models / name for name in names], policy, options)
            reference = reference or found
            if found != reference:
                raise RuntimeError(f"{label}: other verdicts\n{process.output}")
            if label not in best or process.seconds < best[label].seconds:
                best[label] = process
    alone = best["one process"].seconds
    what = f"{len(names)} checkpoints, {sum(map(len, reference))} checks"
    report.add(*header(what, "seconds", "one process / this", "peak MB"))
    for label, process in best.items():
        ratio = f"{alone / process.seconds:.2f}"
        report.add(row(label, f"{process.seconds:.1f}", ratio, process.memory))


def main() -> None:
    """Measure, print, and append to RESULTS.md if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="models and data")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each kind")
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md")
    arguments = parser.parse_args()
    report, load, began = Report(), os.getloadavg()[0], time.perf_counter()
    compare(arguments.shared.resolve(), arguments.repeats, report)
    about = (
        f"{conditions(library_versions())}; the best of {arguments.repeats}; "
        f"{time.perf_counter() - began:.0f} s in all, load average before {load:.1f}"
    )
    keep(section(about, *report.lines), write=arguments.write)


if __name__ == "__main__":
    main()
