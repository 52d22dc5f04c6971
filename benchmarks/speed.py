"""How fast vetting is, beside the plain script that a user would write instead.

    python benchmarks/speed.py [--part PART]… [--shared DIR] [--peers-python FILE] [--device DEVICE]
        [--write]

PART is smollm2, rxnfp, bert-base, peers, batches, growth, corpus or ablations, or one of the random
checkpoints bert-base-run, llama-1b-run and tiny-run.

One command, one machine, one after the other; processor threads as the library chooses.

(a) the plain script: load in float32, zero parameters in place, run the whole corpus, restore, next
    condition: intact, each outlier alone, all together, ten random draws. Its seconds per text
    block are measured on a stated share of the corpus, and its time extrapolated from them.
(b) ``--robustness-exhaustive``: extrapolated in the same way from the package's own passes.
(c) the default run as a whole process from an empty store: start-up, conversion, loading, report.
(d) the same with ``-n 2``; (e) the run of (c) again, from its store.

Peak memory is the largest resident set of one process, and where there are several also the most
that all of them hold together (proportional set sizes, looked at every two seconds).

``peers`` times one ablation through the hooks of nnsight, pyvene and TransformerLens, which the
interpreter of ``--peers-python`` must be able to import. ``batches`` shows what larger batches, of
several ablations at once, could gain. ``growth`` and ``corpus`` show how cost grows: with checks,
model and text block, and with a corpus on which decisions come late, or early.

``*-run`` are the rows (a) to (e) on a random checkpoint of that size with WikiText-2 and two
outlier dimensions: for speed, since verdicts on noise are worth nothing. ``ablations`` compares an
ablation with the intact model, and four ablations of a chunk one after the other with all in one
batch. With ``--device cuda`` everything but ``peers``, ``batches``, ``growth`` and ``bert-base``
runs on a GPU, the script too.

Without ``--part`` the first six are run (about fifteen minutes on two idle cores).
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results import conditions, header, keep, row, section
from speed_beside_peers import peers
from speed_growth import corpus, growth, larger_batches
from speed_runs import Report, Subject, measured, saved, subjects, verdicts, vet

from robustness.runtime.libraries import library_versions

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("smollm2", "rxnfp", "bert-base", "peers", "batches", "growth")
SAVED = {"bert-base-run": "bert-base", "llama-1b-run": "llama-1b", "tiny-run": "tiny"}
FOUR = (5, 50, 40, 60)
"""Dimensions that are ablated one by one and in one batch: any that the smallest model has, too."""
HEADER = header(
    *("subject", "run", "seconds", "(a) / this", "verdicts", "text blocks", "peak MB"),
    "of matmul peak",
)


def compare(subject: Subject, report: Report) -> None:
    """Rows (a) to (e) for one checkpoint."""
    name = subject.name
    plain = measured(
        "plain",
        model=subject.model,
        text=str(subject.text),
        column=subject.column,
        dims=subject.dims or (0,),
        blocks=subject.n_measured,
        device=subject.device,
    )
    n_blocks, n_conditions = plain["corpus_blocks"], subject.plain_conditions
    script = plain["start_s"] + n_conditions * n_blocks * plain["per_block_s"]
    passes = n_conditions * n_blocks
    report.add(
        row(
            name,
            f"(a) plain script, extrapolated from {plain['measured_blocks']} of {passes} passes",
            *(f"{script:.0f}", 1, "", passes),
            f"{_memory(plain)} (loading alone {plain['load_peak_mb']:.0f})",
            f"{plain['share_of_peak']:.0%}",
        )
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reference: list[str] = []

        def vetted(label: str, store: str, *options: str) -> None:
            process, facts = vet(subject, folder, store, *options)
            found = verdicts(facts)
            reference.extend(found if not reference else [])
            same = "" if found == reference else " **differ**"
            counts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(found).items())
            blocks = sum(c["seen"] for c in facts["checkpoints"][0]["checks"])
            seconds = process.seconds
            report.add(
                row(
                    *(name, label, f"{seconds:.1f}", f"{script / seconds:.1f}"),
                    *(f"{counts}{same}", blocks, process.memory, ""),
                )
            )

        vetted("(c) default, float32", "float32")
        vetted("(e) again, from the store", "float32")
        vetted("(d) default, -n 2", "workers", "-n", "2")
        vetted("(c) default, dtype auto", "auto", "--robustness-dtype=auto")
        for dtype in ("float32", "auto"):
            _exhaustive(subject, report, folder / "float32", dtype=dtype, script=script)


def _exhaustive(
    subject: Subject, report: Report, store: Path, *, dtype: str, script: float
) -> None:
    """Row (b): every condition of the suite on the whole corpus, from measured passes."""
    found = measured(
        "ours",
        model=subject.model,
        corpus=subject.corpus,
        store=str(store),
        dims=subject.dims or (0,),
        chunks=max(1, subject.n_measured // 16),
        dtype=dtype,
        device=subject.device,
    )
    n_dims = len(subject.dims)
    n_conditions = 1 + n_dims + (n_dims > 1) + (n_dims > 0)  # the control is one
    passes = n_conditions * found["corpus_blocks"]
    seconds = found["start_s"] + passes * found["per_block_s"]
    extent = f"{found['measured_blocks']} of {passes} passes"
    report.add(
        row(
            subject.name,
            f"(b) exhaustive, {dtype}, extrapolated from {extent}",
            *(f"{seconds:.0f}", f"{script / seconds:.1f}", "", passes),
            *(_memory(found), f"{found['share_of_peak']:.0%}"),
        )
    )


def _memory(found: dict[str, Any]) -> str:
    """Of one process, and what its tensors took on a GPU."""
    there = found["accelerator_mb"]
    return f"{found['peak_mb']:.0f}" + ("" if there is None else f" + {there:.0f} on the GPU")


def saved_run(report: Report, shared: Path, kind: str, device: str) -> None:
    """Rows (a) to (e) on a random checkpoint, and its ablations."""
    with tempfile.TemporaryDirectory() as place:
        subject = saved(kind, Path(place) / kind, shared, device)
        ablations(subject, report)
        report.add("", *HEADER)
        compare(subject, report)


def ablations(subject: Subject, report: Report) -> None:
    """One ablation beside none, and four one after the other beside four in one batch."""
    columns = ("dtype", "run", "ms per text block", "of the intact", "of matmul peak")
    report.add("", *header(subject.name, *columns))
    for dtype in ("float32", "auto"):
        with tempfile.TemporaryDirectory() as store:
            found = measured(
                "ablations",
                model=subject.model,
                corpus=subject.corpus,
                store=store,
                dims=FOUR,
                dtype=dtype,
                device=subject.device,
            )
        if dtype == "auto" and found["dtype"] == "float32":
            continue
        seconds: dict[str, float] = found["per_block_s"]
        for name, second in seconds.items():
            share = f"{found['share_of_peak'][name]:.0%}"
            ratio = f"{second / seconds['intact']:.2f}"
            report.add(row("", found["dtype"], name, f"{second * 1000:.3f}", ratio, share))
        largest = f"{found['largest_difference_nats_per_token']:.1e} nats per token"
        report.add(
            row("", found["dtype"], f"differ by at most {largest}", "", "", ""),
            row("", found["dtype"], f"peak: {found['peak'] / 1e12:.1f} TFLOP/s", "", "", ""),
        )


def bert_base(report: Report) -> None:
    """Speed only: passes of a random model of BERT-base's size."""
    found = measured("random", layers=12, hidden=768, length=128, blocks=16, kind="bert")
    plain, own = found["plain_per_block_s"], found["per_block_s"]
    name = "BERT-base, random"
    figures = f"{found['peak_mb']:.0f}", f"{found['share_of_peak']:.0%}"
    report.add(
        row(name, "a pass of the plain script", f"{plain:.3f}", 1, "", 1, "", ""),
        row(name, "a pass of the package", f"{own:.3f}", f"{plain / own:.2f}", "", 1, *figures),
    )


def main() -> None:
    """Measure, print, and append to RESULTS.md if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path("../shared")
    parser.add_argument("--shared", type=Path, default=shared, help="models and data")
    parser.add_argument(
        "--part",
        action="append",
        choices=[*PARTS, "corpus", "ablations", *SAVED],
        help="repeatable",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--peers-python", default=sys.executable, help="an interpreter that has the peers"
    )
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md")
    arguments = parser.parse_args()
    shared = arguments.shared.resolve()
    parts = arguments.part or PARTS
    report, load = Report(), os.getloadavg()[0]
    began = time.perf_counter()
    if not {"smollm2", "rxnfp", "bert-base"}.isdisjoint(parts):
        report.add(*HEADER)
    known = subjects(shared, arguments.device)
    actions: dict[str, Callable[[], None]] = {
        "smollm2": lambda: compare(known["smollm2"], report),
        "rxnfp": lambda: compare(known["rxnfp"], report),
        "bert-base": lambda: bert_base(report),
        "peers": lambda: peers(report, arguments.peers_python),
        "batches": lambda: larger_batches(report),
        # From here on tables of their own.
        "growth": lambda: growth(report, shared),
        "corpus": lambda: corpus(report, shared),
        "ablations": lambda: ablations(known["smollm2"], report),
        **{
            part: partial(saved_run, report, shared, kind, arguments.device)
            for part, kind in SAVED.items()
        },
    }
    for part, action in actions.items():
        if part in parts:
            action()
    about = conditions(library_versions(), arguments.device)
    text = section(
        f"{about}; {time.perf_counter() - began:.0f} s in all, load average before {load:.1f}",
        *report.lines,
    )
    keep(text, write=arguments.write)


if __name__ == "__main__":
    main()
