"""How cost grows with the corpus, the checks and the model, and what larger batches could gain."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from results import header, row
from speed_runs import Report, Subject, measured, subjects, vet

_GROWN = ("seconds", "text blocks in verdicts")


def larger_batches(report: Report) -> None:
    """Seconds per text block by batch: what several ablations in one batch could gain at most."""
    batches = (1, 4, 16, 64)
    report.add("", *header("random BERT, text blocks of 128 tokens in a batch", *map(str, batches)))
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
        report.add(row(f"{layers} x {hidden}", *cells))


def growth(report: Report, shared: Path) -> None:
    """How cost grows with the corpus, the checks, the model and the text block."""
    small = subjects(shared)["sapiens"]
    lines = small.text.read_text().splitlines(keepends=True)
    rows = ["", *header("what grows", "value", *_GROWN)]
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
    names = ("model", "parameters", "tokens", "seconds per text block", "of matmul peak")
    report.add(*header(*names))
    for layers, hidden, length in (
        (4, 256, 128), (8, 512, 128), (12, 768, 128), (16, 1024, 128), (8, 512, 64), (8, 512, 512),
    ):  # fmt: skip
        found = measured(
            "random", layers=layers, hidden=hidden, length=length, blocks=8, kind="llama"
        )
        report.add(
            row(
                f"random Llama, {layers} x {hidden}",
                f"{found['parameters'] / 1e6:.0f} M",
                length,
                f"{found['per_block_s']:.3f}",
                f"{found['share_of_peak']:.0%}",
            )
        )


def corpus(report: Report, shared: Path) -> None:
    """How cost grows with the corpus where decisions come early."""
    subject = subjects(shared)["smollm2"]
    lines = subject.text.read_text(encoding="utf-8").splitlines(keepends=True)
    report.add("", *header(f"{subject.name}, share of the corpus", "text blocks", *_GROWN))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for share in (16, 4, 1):
            text = folder / f"{share}.txt"
            text.write_text("".join(lines[: len(lines) // share]), encoding="utf-8")
            part = replace(subject, text=text)
            report.add(_grown(part, folder, f"store-{share}", f"1/{share}"))


def _records(lines: Sequence[str], share: int) -> int:
    """Where the first 1/share of a FASTA file's records ends."""
    starts = [number for number, line in enumerate(lines) if line.startswith(">")]
    return [*starts, len(lines)][len(starts) // share]


def _grown(subject: Subject, folder: Path, store: str, what: str) -> str:
    process, facts = vet(subject, folder, store)
    (checkpoint,) = facts["checkpoints"]
    blocks = sum(check["seen"] for check in checkpoint["checks"])
    value = len(checkpoint["checks"]) if what == "checks" else checkpoint["corpus_text_blocks"]
    return row(what, value, f"{process.seconds:.1f}", blocks)
