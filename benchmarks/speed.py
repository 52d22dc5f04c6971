"""How fast vetting is, beside the plain script that a user would write instead.

    python benchmarks/speed.py [--part PART]… [--shared DIR] [--peers-python FILE] [--write]

PART is smollm2, rxnfp, bert-base, peers, batches or growth.

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
several ablations at once, could gain.

Without ``--part`` all are run (about fifteen minutes on two idle cores).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from vet_checkpoints import RESULTS, SMOLLM2, conditions

from robustness.measure import library_versions

PROCESS = Path(__file__).with_name("speed_process.py")
PEERS = Path(__file__).with_name("speed_peers.py")
LIBRARIES = ("plain", "robustness", "nnsight", "pyvene", "transformer_lens")
PARTS = ("smollm2", "rxnfp", "bert-base", "peers", "batches", "growth")
LOOK_EVERY_S = 2.0
RANDOM_DRAWS = 10
HEADER = (
    "| subject | run | seconds | (a) / this | verdicts | text blocks | peak MB | of matmul peak |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint with its text.

    Attributes:
        name: in the table.
        model: ``--model``.
        text: file of the corpus.
        column: of a table; ``None`` for running text.
        dims: its outlier dimensions under ``policy``; without any, the suite measures the intact
            model alone, and the script ten random draws besides.
        policy: lines of a policy file.
        share: text blocks on which the plain script is measured.
    """

    name: str
    model: str
    text: Path
    dims: tuple[int, ...]
    column: str | None = None
    policy: tuple[str, ...] = ()
    share: int = 32

    @property
    def corpus(self) -> str:
        """``--robustness-corpus``."""
        return f"{self.text}:{self.column}" if self.column else str(self.text)

    @property
    def plain_conditions(self) -> int:
        """Intact, each outlier alone, all together, random draws."""
        return 1 + len(self.dims) + (len(self.dims) > 1) + RANDOM_DRAWS


@dataclass(kw_only=True)
class Report:
    """Lines of the tables."""

    lines: list[str] = field(default_factory=list)

    def add(self, *lines: str) -> None:
        """Keep lines and show them at once."""
        self.lines += lines
        print("\n".join(lines), flush=True)


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process that has ended, with its descendants.

    Attributes:
        seconds: from its start to its end.
        peak_mb: largest resident memory of one process.
        together_mb: most that all processes held together; ``None`` if there was only one.
        output: what it wrote.
        returncode: its exit code.
    """

    seconds: float
    peak_mb: float
    together_mb: float | None
    output: str
    returncode: int

    @property
    def memory(self) -> str:
        """For a table."""
        together = "" if self.together_mb is None else f" (together {self.together_mb:.0f})"
        return f"{self.peak_mb:.0f}{together}"


class Together:
    """Watches what a process and its descendants hold: sums of proportional set sizes."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._most: dict[bool, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """The most that several processes held at a time, in MB."""
        self._ended.set()
        self._thread.join()
        return self._most[True] / 1024**2 if True in self._most else None

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            with suppress(psutil.Error):
                processes = [self._process, *self._process.children(recursive=True)]
                held = sum(process.memory_full_info().pss for process in processes)
                several = len(processes) > 1
                self._most[several] = max(self._most.get(several, 0), held)


def run(command: Sequence[str], folder: Path) -> Process:
    """Run a command; ``wait4`` tells the peak of its largest process."""
    with (folder / "output.txt").open("w+", encoding="utf-8") as stream:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, env=_environment()
        )
        together = Together(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        stream.seek(0)
        return Process(
            seconds=seconds,
            peak_mb=usage.ru_maxrss / 1024,
            together_mb=together.stop(),
            output=stream.read(),
            returncode=process.returncode,
        )


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def measured(
    script: str, *, file: Path = PROCESS, python: str = sys.executable, **options: Any
) -> dict[str, Any]:
    """What speed_process.py, or another file, found out in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(file), script, json.dumps(options)]
        process = run(command, Path(folder))
    if process.returncode:
        raise RuntimeError(process.output)
    found: dict[str, Any] = json.loads(process.output.strip().splitlines()[-1])
    return found


def vet(
    subject: Subject, folder: Path, store: str, *options: str
) -> tuple[Process, dict[str, Any]]:
    """``pytest --model=…`` as a whole process, and its JSON report."""
    (folder / "policy.toml").write_text("\n".join(subject.policy))
    report = folder / "report.json"
    command = [
        *(sys.executable, "-m", "pytest", "-q", f"--model={subject.model}"),
        *(f"--robustness-corpus={subject.corpus}", f"--robustness-store={folder / store}"),
        *(f"--robustness-json={report}", "--robustness-policy=policy.toml", *options),
    ]
    process = run(command, folder)
    if process.returncode not in (0, 1):
        raise RuntimeError(process.output)
    return process, json.loads(report.read_text())


def verdicts(facts: dict[str, Any]) -> list[str]:
    """Verdicts in the order of the checks."""
    return [check["verdict"] for each in facts["checkpoints"] for check in each["checks"]]


def compare(subject: Subject, report: Report) -> None:
    """Rows (a) to (e) for one checkpoint."""
    name = subject.name
    plain = measured(
        "plain",
        model=subject.model,
        text=str(subject.text),
        column=subject.column,
        dims=subject.dims or (0,),
        blocks=subject.share,
    )
    n_blocks, n_conditions = plain["corpus_blocks"], subject.plain_conditions
    script = plain["start_s"] + n_conditions * n_blocks * plain["per_block_s"]
    report.add(
        f"| {name} | (a) plain script, extrapolated from {plain['measured_blocks']} of "
        f"{n_conditions * n_blocks} passes | {script:.0f} | 1 | | {n_conditions * n_blocks} | "
        f"{plain['peak_mb']:.0f} (loading alone {plain['load_peak_mb']:.0f}) | "
        f"{plain['share_of_peak']:.0%} |"
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reference: list[str] = []

        def row(label: str, store: str, *options: str) -> None:
            process, facts = vet(subject, folder, store, *options)
            found = verdicts(facts)
            reference.extend(found if not reference else [])
            same = "" if found == reference else " **differ**"
            counts = ", ".join(f"{n} {verdict}" for verdict, n in Counter(found).items())
            blocks = sum(c["text_blocks"] for c in facts["checkpoints"][0]["checks"])
            report.add(
                f"| {name} | {label} | {process.seconds:.1f} | {script / process.seconds:.1f} | "
                f"{counts}{same} | {blocks} | {process.memory} | |"
            )

        row("(c) default, float32", "float32")
        row("(e) again, from the store", "float32")
        row("(d) default, -n 2", "workers", "-n", "2")
        row("(c) default, dtype auto", "auto", "--robustness-dtype=auto")
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
        chunks=max(1, subject.share // 16),
        dtype=dtype,
    )
    n_dims = len(subject.dims)
    n_conditions = 1 + n_dims + (n_dims > 1) + (n_dims > 0)  # the control is one
    passes = n_conditions * found["corpus_blocks"]
    seconds = found["start_s"] + passes * found["per_block_s"]
    report.add(
        f"| {subject.name} | (b) exhaustive, {dtype}, extrapolated from "
        f"{found['measured_blocks']} of {passes} passes | {seconds:.0f} | {script / seconds:.1f} | "
        f"| {passes} | {found['peak_mb']:.0f} | {found['share_of_peak']:.0%} |"
    )


def bert_base(report: Report) -> None:
    """Speed only: passes of a random model of BERT-base's size."""
    found = measured("random", layers=12, hidden=768, length=128, blocks=16, kind="bert")
    plain, own = found["plain_per_block_s"], found["per_block_s"]
    report.add(
        f"| BERT-base, random | a pass of the plain script | {plain:.3f} | 1 | | 1 | | |",
        f"| BERT-base, random | a pass of the package | {own:.3f} | {plain / own:.2f} | | 1 | "
        f"{found['peak_mb']:.0f} | {found['share_of_peak']:.0%} |",
    )


def peers(report: Report, python: str) -> None:
    """One ablation through other libraries' hooks: the same figure, and how long it takes."""
    report.add(
        "",
        "| ablating one dimension of SmolLM2 | version | seconds per text block | of plain | "
        "nats per token | start, s |",
        "|---|---|---|---|---|---|",
    )
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
                report.add(f"| {library} | did not run: {last} | | | | |")
                continue
            seconds = found["per_block_s"]
            baseline = baseline or seconds
            report.add(
                f"| {library} | {found['version']} | {seconds:.3f} | {seconds / baseline:.2f} | "
                f"{found['nats_per_token']:.6f} | {found['start_s']:.1f} |"
            )


def larger_batches(report: Report) -> None:
    """Seconds per text block by batch: what several ablations in one batch could gain at most."""
    batches = (1, 4, 16, 64)
    report.add(
        "",
        "| random BERT, text blocks of 128 tokens in a batch | "
        + " | ".join(map(str, batches))
        + " |",
        "|---" * (1 + len(batches)) + "|",
    )
    for layers, hidden in ((4, 64), (4, 128), (4, 256), (12, 384), (12, 768)):
        blocks = 64 if hidden < 384 else 16
        seconds = [
            measured(
                "random",
                layers=layers,
                hidden=hidden,
                length=128,
                kind="bert",
                blocks=blocks,
                batch=batch,
            )["per_block_s"]
            for batch in batches
            if batch <= blocks
        ]
        cells = [f"{second * 1000:.2f} ms" for second in seconds]
        cells += [""] * (len(batches) - len(cells))
        report.add(f"| {layers} x {hidden} | {' | '.join(cells)} |")


def growth(report: Report, shared: Path) -> None:
    """How cost grows with the corpus, the checks, the model and the text block."""
    small = subjects(shared)["sapiens"]
    lines = small.text.read_text().splitlines(keepends=True)
    rows = ["", "| what grows | value | seconds | text blocks in verdicts |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for share in (4, 2, 1):
            text = folder / f"{share}.fa"
            text.write_text("".join(lines[: _records(lines, share)]))
            part = Subject(name="", model=small.model, text=text, dims=())
            rows.append(_grown(part, folder, f"corpus-{share}", "corpus, text blocks"))
        for k, part_of in ((3.0, 0.5), (2.0, 0.25), (1.5, 0.25)):
            rule = ("[rules.busters]", f"k = {k}", f"min_layer_share = {part_of}")
            policy = (*rule, "[checks.outliers_are_present]", "max = 999")
            part = Subject(name="", model=small.model, text=small.text, dims=(), policy=policy)
            rows.append(_grown(part, folder, f"checks-{k}", "checks"))
    report.add(*rows, "")
    report.add("| model | parameters | tokens | seconds per text block | of matmul peak |")
    report.add("|---|---|---|---|---|")
    for layers, hidden, length in (
        (4, 256, 128), (8, 512, 128), (12, 768, 128), (16, 1024, 128), (8, 512, 64), (8, 512, 512),
    ):  # fmt: skip
        found = measured(
            "random", layers=layers, hidden=hidden, length=length, blocks=8, kind="llama"
        )
        report.add(
            f"| random Llama, {layers} x {hidden} | {found['parameters'] / 1e6:.0f} M | {length} | "
            f"{found['per_block_s']:.3f} | {found['share_of_peak']:.0%} |"
        )


def _records(lines: Sequence[str], share: int) -> int:
    """Where the first 1/share of a FASTA file's records ends."""
    starts = [number for number, line in enumerate(lines) if line.startswith(">")]
    return [*starts, len(lines)][len(starts) // share]


def _grown(subject: Subject, folder: Path, store: str, what: str) -> str:
    process, facts = vet(subject, folder, store)
    (checkpoint,) = facts["checkpoints"]
    blocks = sum(check["text_blocks"] for check in checkpoint["checks"])
    value = len(checkpoint["checks"]) if what == "checks" else checkpoint["corpus_text_blocks"]
    return f"| {what} | {value} | {process.seconds:.1f} | {blocks} |"


def subjects(shared: Path) -> dict[str, Subject]:
    """The checkpoints, by part."""
    models, data = shared / "models", shared / "data"
    return {
        "smollm2": Subject(
            name="SmolLM2-135M, WikiText-2 test",
            model=SMOLLM2,
            text=data / "wikitext-2-raw" / "wiki.test.raw",
            dims=(100, 247, 507),
            share=16,
        ),
        "rxnfp": Subject(
            name="rxnfp BERT, reactions",  # no outlier dimensions: intact and ten random draws
            model=str(models / "rxnfp-bert-mlm"),
            text=data / "rxnmapper_example_rxns.csv",
            column="rxn",
            dims=(),
            share=128,
        ),
        "sapiens": Subject(
            name="sapiens RoBERTa",
            model=str(models / "sapiens-roberta-vl"),
            text=data / "antibody-light.fa",
            dims=(92, 112),
        ),
    }


def main() -> None:
    """Measure, print, and append to RESULTS.md if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path("../shared")
    parser.add_argument("--shared", type=Path, default=shared, help="models and data")
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable")
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
    known = subjects(shared)
    actions: dict[str, Callable[[], None]] = {
        "smollm2": lambda: compare(known["smollm2"], report),
        "rxnfp": lambda: compare(known["rxnfp"], report),
        "bert-base": lambda: bert_base(report),
        "peers": lambda: peers(report, arguments.peers_python),
        "batches": lambda: larger_batches(report),
        "growth": lambda: growth(report, shared),  # the last, since it has tables of its own
    }
    for part, action in actions.items():
        if part in parts:
            action()
    text = "\n".join(
        [
            "",
            f"## `{' '.join(['python benchmarks/speed.py', *sys.argv[1:]])}`",
            "",
            f"{conditions({'versions': library_versions()})}; "
            f"{time.perf_counter() - began:.0f} s in all, load average before {load:.1f}",
            "",
            *report.lines,
            "",
        ]
    )
    if arguments.write:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
