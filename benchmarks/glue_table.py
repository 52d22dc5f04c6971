"""The table of downstream scores without outlier dimensions: as Markdown, and as a plot."""

import statistics
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from robustness.runtime.plain import plain

_LISTED = 4
"""Dimensions whose own scores are all printed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        task: its name.
        metric: of the scores.
        asked: the model's ``head``, or the ``cosine`` of its mean-pooled embeddings.
        seed: of the training, where there are several.
        train_examples: fine-tuned on; 0 where the model is as it was.
        dev_examples: scored.
        dims_before: outlier dimensions of the model that was fine-tuned.
        whose: whether ``dims`` are those of the model ``before`` or ``after`` fine-tuning.
        dims: outlier dimensions that are ablated.
        guess: score of a guess that reads no text.
        intact: score.
        alone: score without each of them.
        joint: score without all of them; ``None`` where there are none.
        joint_drop_95: of intact minus joint, by a paired bootstrap over the examples scored.
        random: scores without as many others, one per draw.
    """

    task: str
    metric: str
    train_examples: int
    dev_examples: int
    dims_before: list[int]
    dims: list[int]
    guess: float
    intact: float
    alone: dict[str, float]
    joint: float | None
    joint_drop_95: tuple[float, float] | None
    random: list[float]
    asked: str = "head"
    whose: str = "after"
    seed: int | None = None

    @property
    def name(self) -> str:
        """Of the line."""
        parts = [self.task]
        if not self.train_examples:
            return f"{self.task}, not fine-tuned"
        if self.seed is not None:
            parts.append(f"seed {self.seed}")
        if self.asked == "cosine":
            parts.append("by cosine")
        if self.whose == "before":
            parts.append("dims of before")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Flagged:
    """What every rule says of one checkpoint.

    Attributes:
        name: of the checkpoint: ``before``, or its training.
        dims: outlier dimensions by rule, or why it cannot tell.
    """

    name: str
    dims: dict[str, list[int] | str]


def markdown(rows: Sequence[Row], rules: Sequence[Flagged], args: Namespace) -> Iterator[str]:
    """The table, what each rule flags where that was asked, and what it is worth."""
    yield f"# GLUE without outlier dimensions: {_cell(args.model)}"
    yield ""
    rule = f"by the rule {args.rule}"
    if args.rule == "busters":
        rule += f", beyond {args.k:g} std in at least {args.min_layer_share:g} of the layers"
    seeds = f"seed{'s' if len(args.seeds) > 1 else ''} {', '.join(map(str, args.seeds))}"
    yield (
        f"Fine-tuned for {args.epochs:g} epochs, learning rate {args.learning_rate:g}, batches of "
        f"{args.batch_size}, at most {args.max_length} tokens, weight decay 0.01, {seeds}; outlier "
        f"dimensions {rule}; torch {version('torch')}, transformers {version('transformers')}, "
        f"{args.device}."
    )
    yield ""
    yield (
        "| task | score (examples) | trained on | dims before | dims off | guess | intact "
        "| each alone | all | drop by all, 95 % | as many random |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for each in rows:
        yield (
            f"| {each.name} | {each.metric} ({each.dev_examples}) | {each.train_examples or '-'} "
            f"| {_dims(each.dims_before)} | {_dims(each.dims)} | {each.guess:.3f} "
            f"| {each.intact:.3f} | {_alone(each.alone)} "
            f"| {'-' if each.joint is None else f'{each.joint:.3f}'} "
            f"| {_interval(each.joint_drop_95)} | {_spread(each.random)} |"
        )
    yield ""
    yield (
        f"Random: mean of {args.draws} draws of as many other dimensions, lowest and highest. "
        "Drop: intact minus all; its interval is of the examples scored (paired bootstrap), not of "
        "another training."
    )
    if any(each.asked == "cosine" for each in rows):
        yield ""
        yield (
            "By cosine: the score is that of the cosine of two mean-pooled embeddings, which the "
            "fine-tuning, on pairs in one sequence, did not ask for."
        )
    yield from _worth(rows, args)
    if rules:
        yield from _flagged(rules)


def _flagged(rules: Sequence[Flagged]) -> Iterator[str]:
    yield ""
    yield "## Outlier dimensions by each rule, before and after fine-tuning"
    yield ""
    yield "Those that look at activations read the package's own text."
    yield ""
    yield f"| rule | {' | '.join(each.name for each in rules)} |"
    yield f"|---|{'---|' * len(rules)}"
    reasons: list[str] = []
    for rule in rules[0].dims:
        cells = []
        for each in rules:
            found = each.dims[rule]
            if isinstance(found, str):
                if found not in reasons:
                    reasons.append(found)
                cells.append(f"cannot tell ({reasons.index(found) + 1})")
            else:
                cells.append(_dims(found))
        yield f"| {rule} | {' | '.join(cells)} |"
    for number, reason in enumerate(reasons, start=1):
        yield ""
        yield f"({number}) {_cell(reason)}"


def _worth(rows: Sequence[Row], args: Namespace) -> Iterator[str]:
    reasons = []
    if args.limit is not None:
        reasons.append(f"only {args.limit} training examples a task were used")
    if args.epochs < 4:
        reasons.append(f"there were {args.epochs:g} epochs and not 4")
    if args.learning_rate != 2e-5:
        reasons.append(f"the learning rate was {args.learning_rate:g} and not 2e-5")
    if any(each.task == "sst2" for each in rows):
        reasons.append("SST-2 has an excerpt of its training set")
    smallest = min(each.dev_examples for each in rows)
    yield ""
    seeds = "One seed" if len(args.seeds) == 1 else f"{len(args.seeds)} seeds"
    yield (
        f"{seeds}; on {smallest} examples the standard error of an accuracy is up to "
        f"{0.5 / smallest**0.5:.3f}, so that differences of twice that mean little, though all "
        "columns of a row are of the same examples."
        + (f" Not comparable with published numbers: {'; '.join(reasons)}." if reasons else "")
    )


def _cell(text: str) -> str:
    return plain(text).replace("|", "\\|").replace("<", "&lt;")


def _dims(dims: Sequence[int]) -> str:
    return ", ".join(map(str, dims)) or "none"


def _alone(scores: dict[str, float]) -> str:
    if len(scores) <= _LISTED:
        return ", ".join(f"{dim}: {value:.3f}" for dim, value in scores.items()) or "-"
    order = sorted(scores, key=scores.__getitem__)
    ends = (f"{scores[dim]:.3f} ({dim})" for dim in (order[0], order[-1]))
    return f"{len(order)}, {' to '.join(ends)}"


def _interval(ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def plot(rows: Sequence[Row], file: Path, title: str) -> bool:
    """Scores per task, as the paper's figures show them; whether matplotlib is there to do it."""
    try:
        import matplotlib as mpl  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # type: ignore[import-not-found, unused-ignore]

    width = max(7.0, 1.5 + 1.3 * len(rows))
    figure, axes = plt.subplots(figsize=(width, 4), layout="constrained")
    for place, each in enumerate(rows):
        axes.plot([place - 0.3, place + 0.3], [each.guess] * 2, color="#999999", lw=1, ls=":")
        axes.plot([place - 0.3, place + 0.3], [each.intact] * 2, color="black", lw=1)
        axes.scatter([place + 0.2] * len(each.random), each.random, color="#999999", s=12)
        axes.scatter([place] * len(each.alone), list(each.alone.values()), color="#0072b2", s=24)
        if each.joint is not None:
            axes.scatter([place - 0.2], [each.joint], color="#d55e00", marker="D", s=30)
    for label, style in (
        ("intact", {"color": "black", "lw": 1}),
        ("all outlier dimensions off", {"color": "#d55e00", "marker": "D", "ls": ""}),
        ("one off", {"color": "#0072b2", "marker": "o", "ls": ""}),
        ("as many random ones off", {"color": "#999999", "marker": "o", "ls": ""}),
        ("guess that reads no text", {"color": "#999999", "lw": 1, "ls": ":"}),
    ):
        axes.plot([], [], label=label, **style)
    names = [f"{each.name.replace(', ', chr(10))}\n{each.metric}" for each in rows]
    axes.set_xticks(range(len(rows)), names)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylabel("score")
    axes.set_title(title.replace("$", r"\$"), fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    for name in (file, file.with_suffix(".svg")):
        figure.savefig(name, dpi=150, metadata={"Date": None} if name.suffix == ".svg" else None)
    plt.close(figure)
    return True
