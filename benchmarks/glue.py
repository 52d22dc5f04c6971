"""The paper's table of downstream scores: fine-tune, then ablate outlier and random dimensions.

    python benchmarks/glue.py --model=bert-base-uncased --tasks=mrpc,rte,cola,stsb,sst2
                              [--data ../shared/data/glue] [--out glue-results] [--limit N]
                              [--epochs 4] [--learning-rate 2e-5] [--draws 10]
                              [--rule busters] [--k 3.0] [--min-layer-share 0.5]

Fine-tunes with transformers' Trainer as Puccetti et al. 2022 did (4 epochs, learning rate 2e-5,
batches of 32, at most 256 tokens, weight decay 0.01, seed 42), finds the outlier dimensions of the
fine-tuned model by a rule, and scores its development set intact, without each outlier dimension,
without all of them, and without as many random ones, ``--draws`` times. On STS-B the model is also
scored before it is fine-tuned, by the cosine of its mean-pooled embeddings. Writes ``glue.md``,
``glue.json`` and, where matplotlib is installed, ``glue.png`` and ``glue.svg`` to ``--out``; with
another rule than ``busters``, ``glue-RULE.md`` and so on. What is finished is not done again: a
killed training goes on from its last saved step, and predictions are stored.

Small models learn little in four epochs of 2e-5: of the rates that Turc et al. 2019 searched for
their small BERTs (3e-5 … 3e-4), one from the middle is ``--learning-rate=1e-4``.

The data are the files of GLUE, one folder per task (MRPC, RTE, CoLA, STS-B, SST-2).
"""

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from robustness.checkpoint import Checkpoint, resolve
from robustness.conditions import Condition, Fixed, Intact
from robustness.errors import NoLanguageModel, RobustnessError, TaskError
from robustness.plain import plain
from robustness.policy import Settings, load_policy
from robustness.rules.settings import Rule
from robustness.sampling import random_dims
from robustness.tasks.looks import Paired, bootstrap_interval
from robustness.tasks.metrics import Floats, score
from robustness.tasks.task import Task
from robustness.vetting import Vetting

sys.path.insert(0, str(Path(__file__).parent))
from glue_table import Row, markdown, plot
from glue_training import Recipe, fine_tune


class Source(NamedTuple):
    """How a task's files are laid out."""

    folder: str
    texts: tuple[str, ...]
    label: str
    metric: str
    train: str = "train.tsv"
    header: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        """Whether labels are numbers on a scale."""
        return self.metric == "spearman"


SOURCES: Mapping[str, Source] = {
    "mrpc": Source("MRPC", ("#1 String", "#2 String"), "Quality", "accuracy"),
    "rte": Source("RTE", ("sentence1", "sentence2"), "label", "accuracy"),
    "cola": Source(
        "CoLA", ("text",), "label", "matthews", header=("source", "label", "star", "text")
    ),
    "stsb": Source("STS-B", ("sentence1", "sentence2"), "score", "spearman"),
    "sst2": Source("SST-2", ("sentence",), "label", "accuracy", train="train-head.tsv"),
}


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
        found.append({**texts, "label": float(label) if source.regression else numbers[label]})
    return found


def resolved(reference: str, store: Path) -> Checkpoint:
    """A checkpoint with or without a language-model head."""
    try:
        return resolve(reference, cache=store)
    except NoLanguageModel:
        return resolve(reference, cache=store, task="auto")


def vetting(reference: str, args: Any, task: str | None = None, metric: str = "auto") -> Vetting:
    """The object that finds outlier dimensions and predicts."""
    busters = {"k": args.k, "min_layer_share": args.min_layer_share}
    asked = {} if task is None else {"data": task, "metric": metric, "max_length": args.max_length}
    options = {
        "rule": args.rule, "rules": {"busters": busters}, "task": asked, "device": args.device,
    }  # fmt: skip
    settings: Settings = load_policy(None, options=options).settings(reference)
    store = args.out / "store"
    return Vetting(checkpoint=resolved(reference, store), settings=settings, store_root=store)


def answers(task: Task, condition: Condition, what: str) -> Floats:
    """Answers to the whole development set under a condition, in the order of measurement."""
    measurement = task.measurement
    found = []
    for index in range(measurement.n_chunks):
        (outputs,) = measurement.chunk(index, condition)
        found.append(task.answers(outputs))
        say(f"{what}: {index + 1}/{measurement.n_chunks} chunks", end="\r")
    whole = np.concatenate(found)
    metric = task.planned.metric
    say(f"{what}: {metric} {score(metric, task.labels, whole):.4f}        ")
    return whole


def scores(vetted: Vetting, args: Any, what: str) -> dict[str, Any]:
    """A model's scores intact, and without outlier and random dimensions."""
    task, dims = vetted.task, vetted.outliers().dims
    n_features = vetted.examination.hidden_size
    others = [dim for dim in range(n_features) if dim not in dims]
    metric, labels = task.planned.metric, task.labels
    intact = answers(task, Intact(), f"{what} intact")

    def without(some: Sequence[int], name: str) -> Floats:
        return answers(task, Fixed(ablation=vetted.ablation(tuple(some))), f"{what} {name}")

    found: dict[str, Any] = {
        "dims": list(dims),
        "guess": 0.0,
        "intact": score(metric, labels, intact),
        "alone": {str(dim): score(metric, labels, without([dim], f"no {dim}")) for dim in dims},
        "joint": None,
        "joint_drop_95": None,
        "random": [],
    }
    if task.planned.metric == "accuracy":
        ((_, most),) = Counter(labels.tolist()).most_common(1)
        found["guess"] = most / len(labels)
    if dims:
        joint = without(dims, "without all")
        paired = Paired(labels=labels, first=intact, second=joint)
        found["joint"] = score(metric, labels, joint)
        found["joint_drop_95"] = bootstrap_interval(paired, metric, alpha=0.025, seed=args.seed)
        for number in range(args.draws):
            draw = random_dims(others, len(dims), seed=args.seed, draw=number)
            found["random"].append(score(metric, labels, without(draw, f"random {number + 1}")))
    return found


def rows_of(name: str, args: Any) -> Iterator[Row]:
    """Score what can be scored as it is, fine-tune on one task, and score."""
    source = SOURCES[name]
    before = vetting(args.model, args)
    train = examples(args.data, source, source.train, args.limit)
    dev = examples(args.data, source, "dev.tsv", args.dev_limit)
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "dev.jsonl"
    file.write_text("".join(f"{json.dumps(example)}\n" for example in dev), encoding="utf-8")
    task = f"{file}:{'a,b' if len(source.texts) == 2 else 'a'}:label"
    known: dict[str, Any] = {
        "task": name,
        "metric": source.metric,
        "dev_examples": len(dev),
        "dims_before": list(before.outliers().dims),
    }
    if source.regression:
        try:
            found = scores(vetting(args.model, args, task, source.metric), args, f"{name} before")
            yield Row(**known, train_examples=0, **found)
        except TaskError as error:
            say(f"{name}: not scored before fine-tuning: {error}")
    recipe = Recipe(
        epochs=args.epochs,
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        max_length=args.max_length,
        seed=args.seed,
    )
    say(f"{name}: fine-tuning on {len(train)} examples, {args.epochs:g} epochs")
    tuned = fine_tune(
        before.checkpoint,
        train,
        recipe,
        folder,
        regression=source.regression,
        device=args.device,
        save_every=args.save_every,
    )
    found = scores(vetting(str(tuned), args, task, source.metric), args, name)
    yield Row(**known, train_examples=len(train), **found)


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
    parser.add_argument("--epochs", type=float, default=Recipe.epochs)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size)
    parser.add_argument("--save-every", type=int, default=50, help="steps of a training")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--rule", choices=get_args(Rule), default="busters")
    parser.add_argument("--k", type=float, default=3.0)
    parser.add_argument("--min-layer-share", type=float, default=0.5)
    parser.add_argument("--max-length", type=int, default=Recipe.max_length)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    args.tasks = args.tasks.split(",")
    unknown = [name for name in args.tasks if name not in SOURCES]
    if unknown:
        parser.error(f"unknown task {unknown[0]!r}; known: {', '.join(SOURCES)}")
    args.out = args.out.absolute()
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Every task after the other; the table is written anew after each line."""
    args = parsed(arguments)
    name = "glue" if args.rule == "busters" else f"glue-{args.rule}"
    title = f"GLUE without outlier dimensions ({args.rule}): {plain(args.model, limit=60)}"
    rows: list[Row] = []
    for task in args.tasks:
        for row in rows_of(task, args):
            rows.append(row)
            text = "\n".join(markdown(rows, args)) + "\n"
            (args.out / f"{name}.md").write_text(text, encoding="utf-8")
            settings = {key: str(value) for key, value in vars(args).items()}
            found = {
                "model": args.model,
                "settings": settings,
                "rows": [asdict(each) for each in rows],
            }
            (args.out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
            if not plot(rows, args.out / f"{name}.png", title):
                say("no plot: matplotlib is not installed")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except RobustnessError as error:
        raise SystemExit(plain(str(error), limit=None)) from None
