"""The paper's table of downstream scores: fine-tune, then ablate outlier and random dimensions.

    python benchmarks/glue.py --model=bert-base-uncased --tasks=mrpc,rte,cola,stsb,sst2
                              [--data ../shared/data/glue] [--out glue-results] [--limit N]
                              [--epochs 4] [--learning-rate 2e-5] [--draws 10]
                              [--rule busters] [--k 3.0] [--min-layer-share 0.5]
                              [--seeds 42] [--device cpu] [--before-and-after]

Fine-tunes with transformers' Trainer as Puccetti et al. 2022 did (4 epochs, learning rate 2e-5,
batches of 32, at most 256 tokens, weight decay 0.01, seed 42), finds the outlier dimensions of the
fine-tuned model by a rule, and scores its development set intact, without each outlier dimension,
without all of them, and without as many random ones, ``--draws`` times. On STS-B the model is also
scored before it is fine-tuned, by the cosine of its mean-pooled embeddings; with
``--before-and-after`` also after it, and every fine-tuned model without the dimensions that were
outliers before, where these are others. Then a second table says what each rule flags before and
after. Writes ``glue.md``,
``glue.json`` and, where matplotlib is installed, ``glue.png`` and ``glue.svg`` to ``--out``; with
another rule than ``busters``, ``glue-RULE.md`` and so on. What is finished is not done again: a
killed training goes on from its last saved step, and predictions are stored. On a GPU, where a
training takes seconds, ``--save-every=100000`` saves the time of saving.

Small models learn little in four epochs of 2e-5: of the rates that Turc et al. 2019 searched for
their small BERTs (3e-5 … 3e-4), one from the middle is ``--learning-rate=1e-4``.

``--device=auto`` takes a GPU where there is one. ``--seeds`` trains and scores once for each.

The data are the files of GLUE, one folder per task (MRPC, RTE, CoLA, STS-B, SST-2). Needs the
extras: ``pip install '.[tasks,benchmarks]'``.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, get_args

from robustness.errors import RobustnessError, TaskError
from robustness.outliers.rules.settings import Rule
from robustness.runtime.plain import plain

sys.path.insert(0, str(Path(__file__).parent))
from glue_scores import Asked, flagged, say, scores, vetted
from glue_table import Flagged, Row, markdown, plot
from glue_training import Recipe, best_device, fine_tune


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


def rows_of(name: str, args: argparse.Namespace) -> Iterator[Row | Flagged]:
    """Score what can be scored as it is, fine-tune on one task, and score, for every seed."""
    source = SOURCES[name]
    before = vetted(args.model, args)
    dims_before = list(before.outliers().dims)
    dev = examples(args.data, source, "dev.tsv", args.dev_limit)
    (args.out / name).mkdir(parents=True, exist_ok=True)
    file = args.out / name / "dev.jsonl"
    file.write_text("".join(f"{json.dumps(example)}\n" for example in dev), encoding="utf-8")
    task = f"{file}:{'a,b' if len(source.texts) == 2 else 'a'}:label"
    head = Asked(task, source.metric)
    cosine = head._replace(kind="similarity") if source.regression else None
    known: dict[str, Any] = {
        "task": name,
        "metric": source.metric,
        "dev_examples": len(dev),
        "dims_before": dims_before,
    }
    if cosine is not None:
        try:
            found = scores(vetted(args.model, args, cosine), dims_before, args, f"{name} before")
            yield Row(**known, asked="cosine", train_examples=0, **found)
        except TaskError as error:
            say(f"{name}: no embeddings to compare: {error}")
            cosine = None
    train = examples(args.data, source, source.train, args.limit)
    for seed in args.seeds:
        folder = args.out / (name if seed == args.seeds[0] else f"{name}-seed{seed}")
        say(f"{folder.name}: fine-tuning on {len(train)} examples, {args.epochs:g} epochs")
        tuned = str(
            fine_tune(
                before.checkpoint,
                train,
                recipe(args, seed),
                folder,
                regression=source.regression,
                device=args.device,
                save_every=args.save_every,
            )
        )
        dims = list(vetted(tuned, args).outliers().dims)
        known |= {"train_examples": len(train), "seed": seed if len(args.seeds) > 1 else None}
        found = scores(vetted(tuned, args, head), dims, args, folder.name)
        yield Row(**known, **found)
        if not args.before_and_after:
            continue
        if dims != dims_before:
            found = scores(vetted(tuned, args, head), dims_before, args, f"{folder.name}, again")
            yield Row(**known, whose="before", **found)
        for whose in ("after", "before") if cosine and dims != dims_before else ("after",):
            if cosine is None:
                break
            some = dims if whose == "after" else dims_before
            found = scores(vetted(tuned, args, cosine), some, args, f"{folder.name} by cosine")
            yield Row(**known, asked="cosine", whose=whose, **found)
        yield Flagged(name=folder.name, dims=flagged(tuned, args))


def recipe(args: argparse.Namespace, seed: int) -> Recipe:
    """How is trained."""
    return Recipe(
        epochs=args.epochs,
        learning_rate=args.learning_rate,
        batch_size=args.batch_size,
        max_length=args.max_length,
        seed=seed,
    )


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
    parser.add_argument("--seeds", default=str(Recipe.seed), help="one training for each")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="cpu")
    parser.add_argument(
        "--before-and-after", action="store_true", help="do the outlier dimensions stay?"
    )
    args = parser.parse_args(arguments)
    args.tasks = args.tasks.split(",")
    try:
        args.seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds={args.seeds}: give whole numbers, with commas between them")
    unknown = [name for name in args.tasks if name not in SOURCES]
    if unknown:
        parser.error(f"unknown task {unknown[0]!r}; known: {', '.join(SOURCES)}")
    args.out = args.out.absolute()
    if args.device == "auto":
        args.device = best_device()
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Every task after the other; the table is written anew after each line."""
    args = parsed(arguments)
    name = "glue" if args.rule == "busters" else f"glue-{args.rule}"
    title = f"GLUE without outlier dimensions ({args.rule}): {plain(args.model, limit=60)}"
    rows: list[Row] = []
    rules: list[Flagged] = []
    args.out.mkdir(parents=True, exist_ok=True)
    if args.before_and_after:
        rules.append(Flagged(name="before", dims=flagged(args.model, args)))
    for task in args.tasks:
        for found in rows_of(task, args):
            if isinstance(found, Row):
                rows.append(found)
            else:
                rules.append(found)
            text = "\n".join(markdown(rows, rules, args)) + "\n"
            (args.out / f"{name}.md").write_text(text, encoding="utf-8")
            record = {
                "model": args.model,
                "settings": {key: str(value) for key, value in vars(args).items()},
                "rows": [asdict(each) for each in rows],
                "rules": [asdict(each) for each in rules],
            }
            (args.out / f"{name}.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        if not plot(rows, args.out / f"{name}.png", title):
            say("no plot: matplotlib is not installed")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except RobustnessError as error:
        raise SystemExit(plain(str(error), limit=None)) from None
