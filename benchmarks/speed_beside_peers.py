"""One ablation through other libraries' hooks, each in a process of its own."""

import tempfile
from pathlib import Path

from results import header, row
from speed_runs import Report, measured
from vet_checkpoints import SMOLLM2

PEERS = Path(__file__).with_name("speed_peers.py")
LIBRARIES = ("plain", "robustness", "nnsight", "pyvene", "transformer_lens")


def peers(report: Report, python: str) -> None:
    """One ablation through other libraries' hooks: the same figure, and how long it takes."""
    names = ("version", "seconds per text block", "of plain", "nats per token", "start, s")
    report.add("", *header("ablating one dimension of SmolLM2", *names))
    with tempfile.TemporaryDirectory() as store:
        folder = measured("converted", model=SMOLLM2, store=store)["folder"]
        sizes = {"blocks": 16, "length": 128, "repeats": 2}
        baseline: float | None = None
        for library in LIBRARIES:
            try:
                found = measured(
                    library, file=PEERS, python=python, model=folder, dims=[507], **sizes
                )
            except RuntimeError as error:
                last = str(error).strip().splitlines()[-1]
                report.add(row(library, f"did not run: {last}", "", "", "", ""))
                continue
            seconds = found["per_block_s"]
            baseline = baseline or seconds
            report.add(
                row(
                    library,
                    found["version"],
                    f"{seconds:.3f}",
                    f"{seconds / baseline:.2f}",
                    f"{found['nats_per_token']:.6f}",
                    f"{found['start_s']:.1f}",
                )
            )
