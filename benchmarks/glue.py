"""The paper's table of downstream scores: fine-tune, then ablate outlier and random dimensions.

    python benchmarks/glue.py --model=bert-base-uncased --tasks=mrpc,rte,cola,stsb,sst2
                              [--data ../shared/data/glue] [--out glue-results] [--limit N]
                              [--epochs 4] [--draws 10] [--k 3.0] [--min-layer-share 0.5]

Fine-tunes with transformers' Trainer as Puccetti et al. 2022 did (4 epochs, learning rate 2e-5,
batches of 32, at most 256 tokens, weight decay 0.01, seed 42), finds the outlier dimensions of the
fine-tuned model by the rule ``busters``, and scores its development set intact, without each
outlier dimension, without all of them, and without as many random ones, ``--draws`` times. Writes
``glue.md``, ``glue.json`` and, where matplotlib is installed, ``glue.png`` to ``--out``. What is
finished is not done again: a killed run goes on with its last epoch, and predictions are stored.

The data are the files of GLUE, one folder per task (MRPC, RTE, CoLA, STS-B, SST-2).
"""

import argparse
import csv
import json
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import header
from results import row as table_row

from robustness.checkpoint import Checkpoint, resolve
from robustness.conditions import Condition, Fixed, Intact
from robustness.errors import NoLanguageModel
from robustness.plain import plain
from robustness.policy import Settings, load_policy
from robustness.sampling import random_dims
from robustness.tasks.claims import Task
from robustness.tasks.metrics import score
from robustness.vetting import Vetting


class Source(NamedTuple):
    """How a task's files are laid out."""

    folder: str
    texts: tuple[str, ...]
    label: str
    metric: str
    train: str = "train.tsv"
    header: tuple[str, ...] = ()


SOURCES: Mapping[str, Source] = {
    "mrpc": Source("MRPC", ("#1 String", "#2 String"), "Quality", "accuracy"),
    "rte": Source("RTE", ("sentence1", "sentence2"), "label", "accuracy"),
    "cola": Source(
        "CoLA", ("text",), "label", "matthews", header=("source", "label", "star", "text")
    ),
    "stsb": Source("STS-B", ("sentence1", "sentence2"), "score", "spearman"),
    "sst2": Source("SST-2", ("sentence",), "label", "accuracy", train="train-head.tsv"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One task's line of the table.

    Attributes:
        task: its name.
        metric: of the scores.
        train_examples: fine-tuned on.
        dev_examples: scored.
        dims_before: outlier dimensions of the model that was fine-tuned.
        dims: those of the fine-tuned one, which are ablated.
        intact: score.
        alone: score without each of them.
        joint: score without all of them; ``None`` where there are none.
        random: scores without as many others, one per draw.
    """

    task: str
    metric: str
    train_examples: int
    dev_examples: int
    dims_before: list[int]
    dims: list[int]
    intact: float
    alone: dict[str, float]
    joint: float | None
    random: list[float]


def examples(data: Path, source: Source, file: str, limit: int | None) -> list[dict[str, Any]]:
    """Rows of a GLUE file with keys ``a``, ``b`` (of pairs) and ``label``."""
    text = (data / source.folder / file).read_text(encoding="utf-8-sig")
    fields = source.header or None
    reader = csv.DictReader(
        text.splitlines(), fieldnames=fields, delimiter="\t", quoting=csv.QUOTE_NONE
    )
    rows = list(reader)[:limit]
    names = sorted({row[source.label] for row in rows})
    numbers = {name: number for number, name in enumerate(names)}
    found = []
    for row in rows:
        texts = dict(zip("ab", (row[name].strip() for name in source.texts), strict=False))
        label = row[source.label]
        found.append(
            {**texts, "label": float(label) if source.metric == "spearman" else numbers[label]}
        )
    return found


def fine_tune(
    base: Checkpoint, rows: Sequence[Mapping[str, Any]], source: Source, folder: Path, args: Any
) -> Path:
    """Fine-tune a checkpoint on a task; what is finished in the folder is left as it is."""
    done, work = folder / "model", folder / "training"
    if (done / "config.json").exists():
        return done
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(args.seed)
    tokenizer = base.load_tokenizer()
    regression = source.metric == "spearman"
    labels = 1 if regression else len({row["label"] for row in rows})
    cls: Any = AutoModelForSequenceClassification
    model = cls.from_pretrained(
        base.folder, num_labels=labels, dtype=torch.float32, local_files_only=True
    )
    encoded = []
    for row in rows:
        texts = [row[key] for key in "ab" if key in row]
        found = tokenizer(*texts, truncation=True, max_length=args.max_length)
        encoded.append({**found, "labels": row["label"]})
    settings = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=args.epochs,
        learning_rate=2e-5,
        per_device_train_batch_size=32,
        weight_decay=0.01,
        seed=args.seed,
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=20,
        report_to=[],
        use_cpu=args.device == "cpu",
    )
    trainer: Any = Trainer(
        model=model,
        args=settings,
        train_dataset=encoded,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")) or None)
    partial = folder / "model.partial"
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(done)
    shutil.rmtree(work, ignore_errors=True)
    return done


def resolved(reference: str, store: Path) -> Checkpoint:
    """A checkpoint with or without a language-model head."""
    try:
        return resolve(reference, cache=store)
    except NoLanguageModel:
        return resolve(reference, cache=store, task="auto")


def vetting(reference: str, args: Any, task: str | None = None, metric: str = "auto") -> Vetting:
    """The object that finds outlier dimensions and predicts."""
    rule = {"busters": {"k": args.k, "min_layer_share": args.min_layer_share}}
    asked = {} if task is None else {"data": task, "metric": metric, "max_length": args.max_length}
    options = {"rules": rule, "task": asked, "device": args.device}
    settings: Settings = load_policy(None, options=options).settings(reference)
    store = args.out / "store"
    return Vetting(checkpoint=resolved(reference, store), settings=settings, store_root=store)


def scored(task: Task, condition: Condition, what: str) -> float:
    """The score of the whole development set under a condition."""
    measurement = task.measurement
    answers = []
    for index in range(measurement.n_chunks):
        (outputs,) = measurement.chunk(index, condition)
        answers.append(task.answers(outputs))
        say(f"{what}: {index + 1}/{measurement.n_chunks} chunks", end="\r")
    found = score(task.planned.metric, task.labels, np.concatenate(answers))
    say(f"{what}: {task.planned.metric} {found:.4f}        ")
    return found


def row(name: str, args: Any) -> Row:
    """Fine-tune on one task, and score."""
    source = SOURCES[name]
    before = vetting(args.model, args)
    train = examples(args.data, source, source.train, args.limit)
    dev = examples(args.data, source, "dev.tsv", args.dev_limit)
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{name}: fine-tuning on {len(train)} examples, {args.epochs:g} epochs")
    tuned = fine_tune(before.checkpoint, train, source, folder, args)
    file = folder / "dev.jsonl"
    file.write_text("".join(f"{json.dumps(example)}\n" for example in dev), encoding="utf-8")
    columns = "a,b" if len(source.texts) == 2 else "a"
    after = vetting(str(tuned), args, f"{file}:{columns}:label", source.metric)
    task, dims = after.task, after.outliers().dims
    n_features = after.examination.hidden_size
    others = [dim for dim in range(n_features) if dim not in dims]

    def without(some: Sequence[int], what: str) -> float:
        return scored(task, Fixed(ablation=after.ablation(tuple(some))), f"{name} {what}")

    alone = {str(dim): without([dim], f"without {dim}") for dim in dims}
    draws = [random_dims(others, len(dims), seed=args.seed, draw=n) for n in range(args.draws)]
    return Row(
        task=name,
        metric=source.metric,
        train_examples=len(train),
        dev_examples=len(dev),
        dims_before=list(before.outliers().dims),
        dims=list(dims),
        intact=scored(task, Intact(), f"{name} intact"),
        alone=alone,
        joint=without(dims, "without all") if dims else None,
        random=[without(draw, f"random {n + 1}") for n, draw in enumerate(draws)] if dims else [],
    )


def markdown(rows: Sequence[Row], args: Any) -> Iterator[str]:
    """The table, and what it is worth."""
    yield f"# GLUE without outlier dimensions: {_cell(args.model)}"
    yield ""
    yield (
        f"Fine-tuned for {args.epochs:g} epochs, learning rate 2e-5, batches of 32, at most "
        f"{args.max_length} tokens, weight decay 0.01, seed {args.seed}; outlier dimensions beyond "
        f"{args.k:g} std in at least {args.min_layer_share:g} of the layers; torch "
        f"{version('torch')}, transformers {version('transformers')}, {args.device}."
    )
    yield ""
    yield from header(
        *("task", "score", "dims before", "dims after", "intact", "each alone", "all", "random")
    )
    for each in rows:
        alone = ", ".join(f"{dim}: {value:.3f}" for dim, value in each.alone.items())
        yield table_row(
            each.task,
            f"{each.metric} ({each.dev_examples})",
            *(_dims(each.dims_before), _dims(each.dims), f"{each.intact:.3f}", alone or "-"),
            "-" if each.joint is None else f"{each.joint:.3f}",
            _spread(each.random),
        )
    yield ""
    yield f"Random: mean of {args.draws} draws of as many other dimensions, lowest and highest."
    yield from _worth(rows, args)


def _worth(rows: Sequence[Row], args: Any) -> Iterator[str]:
    reasons = []
    if args.limit is not None:
        reasons.append(f"only {args.limit} training examples a task were used")
    if args.epochs < 4:
        reasons.append(f"there were {args.epochs:g} epochs and not 4")
    if any(each.task == "sst2" for each in rows):
        reasons.append("SST-2 has an excerpt of its training set")
    smallest = min(each.dev_examples for each in rows)
    yield ""
    yield (
        f"One seed; on {smallest} examples the standard error of an accuracy is up to "
        f"{0.5 / smallest**0.5:.3f}, so that differences of twice that mean little, though all "
        "columns of a row are of the same examples."
        + (f" Not comparable with published numbers: {'; '.join(reasons)}." if reasons else "")
    )


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|").replace("<", "&lt;")


def _dims(dims: Sequence[int]) -> str:
    return ", ".join(map(str, dims)) or "none"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def plot(rows: Sequence[Row], file: Path, title: str) -> None:
    """Scores per task, as the paper's figures show them."""
    try:
        import matplotlib as mpl  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        say("no plot: matplotlib is not installed")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # type: ignore[import-not-found, unused-ignore]

    figure, axes = plt.subplots(figsize=(1.5 + 1.3 * len(rows), 4), layout="constrained")
    for place, each in enumerate(rows):
        axes.plot([place - 0.3, place + 0.3], [each.intact] * 2, color="black", lw=1)
        axes.scatter([place + 0.2] * len(each.random), each.random, color="#999999", s=12)
        axes.scatter([place] * len(each.alone), list(each.alone.values()), color="#0072b2", s=24)
        if each.joint is not None:
            axes.scatter([place - 0.2], [each.joint], color="#d55e00", marker="D", s=30)
    for label, style in (
        ("intact", {"color": "black", "lw": 1}),
        ("one outlier dimension off", {"color": "#0072b2", "marker": "o", "ls": ""}),
        ("all off", {"color": "#d55e00", "marker": "D", "ls": ""}),
        ("as many random ones off", {"color": "#999999", "marker": "o", "ls": ""}),
    ):
        axes.plot([], [], label=label, **style)
    axes.set_xticks(range(len(rows)), [f"{each.task}\n{each.metric}" for each in rows])
    axes.set_ylabel("score")
    axes.set_title(title.replace("$", r"\$"))
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)


def say(text: str, end: str = "\n") -> None:
    """Progress, for people."""
    sys.stderr.write(f"{plain(text)}{end}")
    sys.stderr.flush()


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", default=",".join(SOURCES))
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "glue"
    parser.add_argument("--data", type=Path, default=shared)
    parser.add_argument("--out", type=Path, default=Path("glue-results"))
    parser.add_argument("--limit", type=int, help="training examples of a task at most")
    parser.add_argument("--dev-limit", type=int, help="examples scored at most")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--k", type=float, default=3.0)
    parser.add_argument("--min-layer-share", type=float, default=0.5)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    args.tasks = args.tasks.split(",")
    unknown = [name for name in args.tasks if name not in SOURCES]
    if unknown:
        parser.error(f"unknown task {unknown[0]!r}; known: {', '.join(SOURCES)}")
    args.out = args.out.absolute()
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Every task after the other; the table is written anew after each."""
    args = parsed(arguments)
    rows: list[Row] = []
    for name in args.tasks:
        rows.append(row(name, args))
        text = "\n".join(markdown(rows, args)) + "\n"
        (args.out / "glue.md").write_text(text, encoding="utf-8")
        found = {"model": args.model, "rows": [asdict(each) for each in rows]}
        (args.out / "glue.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        plot(rows, args.out / "glue.png", f"GLUE without outlier dimensions: {args.model}")
    print(text)


if __name__ == "__main__":
    main()
