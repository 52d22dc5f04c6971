"""``robustness trace``: when the outlier dimensions of a training run emerged."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from robustness.checkpoint.reference import unique_labels
from robustness.cli import console
from robustness.cli.console import (
    AllowPickle,
    AsJson,
    Base,
    LiveLine,
    Stack,
    Store,
    Tokenizer,
    given,
)
from robustness.cli.scan import scanned
from robustness.corpus.corpus import load_corpus
from robustness.errors import PolicyError, ReportError, RuleError
from robustness.outliers.scanning import Scan
from robustness.policy.policy import Policy, load_policy
from robustness.report.reporters import REPORTERS
from robustness.report.terminal.sketch import BARS
from robustness.report.trace.page import K, to_html
from robustness.report.trace.terminal import lines_of
from robustness.run.estimate import Estimate, processor_speed
from robustness.runtime.plain import is_encodable, plain
from robustness.statistics.pace import SOON_S, Pace, in_words
from robustness.trace import emergence
from robustness.trace.emergence import Step
from robustness.trace.run_measure import RunMeasurement, common_settings
from robustness.trace.run_order import chosen, in_order
from robustness.trace.step_measure import TEXT_BLOCKS, Progress

Checkpoints = Annotated[
    list[str],
    typer.Argument(
        metavar="CKPT...",
        help="Checkpoints of one run: folders, a folder of checkpoint-*, a quoted pattern, or "
        "Hub revisions (name@step_20k).",
    ),
]
Rule = Annotated[str, typer.Option(help="busters, 'puccetti (code)' or 'puccetti (paper)'.")]
Dims = Annotated[
    str | None, typer.Option(help="Follow these dimensions, whatever the rule finds: 308,381.")
]
Measure = Annotated[
    str | None,
    typer.Option(
        help="Measure these checkpoints on text, too: all, first, last, every:5, or steps "
        "(9000 or 20k); with commas: every:5,last."
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(help="The text to measure on (default: the policy's, or the built-in one)."),
]
TextBlocks = Annotated[
    str | None,
    typer.Option(help="Text blocks of each checkpoint, in chunks of 16 (default: 64), or all."),
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", help="Write a page with figures, one file.")
]
PolicyFile = Annotated[
    Path | None, typer.Option(help="TOML file with settings of the rules, corpus, device …")
]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a run's checkpoints are asked: by which rule, and of which dimensions besides."""

    rule: str
    also: tuple[int, ...]
    policy: Policy
    store: Path | None


def trace(
    checkpoints: Checkpoints,
    *,
    rule: Rule = "busters",
    dims: Dims = None,
    measure: Measure = None,
    corpus: Corpus = None,
    text_blocks: TextBlocks = None,
    as_json: AsJson = False,
    html_file: HtmlFile = None,
    stack: Stack = "auto",
    allow_pickle: AllowPickle = None,
    base: Base = None,
    tokenizer: Tokenizer = None,
    policy: PolicyFile = None,
    store: Store = None,
) -> None:
    """Show when each outlier dimension of a training run emerged, and what it was good for.

    All checkpoints are read by their weights alone; those that --measure
    names also run on text: perplexity, and what it is multiplied by without
    the dimensions that emerged, and without as many random ones. Nothing is
    measured twice.

    Dimensions are followed by their index, which means something within one
    run only.

    Exit code 0: traced, whatever was found; 2: a checkpoint cannot be used.
    """
    line, run = LiveLine(), None
    with console.refusing(), ExitStack() as afterwards:
        afterwards.callback(line.clear)
        if html_file is not None:
            REPORTERS["html"].require_packages()
        read = given(allow_pickle=allow_pickle, base=base, tokenizer=tokenizer)
        settings = load_policy(policy, options={**read, **given(stack=stack, corpus=corpus)})
        choice = _Asked(rule=rule, also=_parsed_dims(dims), policy=settings, store=store)
        budget = _parsed_budget(text_blocks)
        steps = _scanned(checkpoints, choice, line)
        _require_dims(choice.also, steps[0].scan.hidden_size)
        if measure is not None:
            run = _measurement(steps, choice, budget)
            steps = _measured(steps, measure, run, line)
        elif corpus is not None or text_blocks is not None:
            line.say("nothing is measured: --corpus and --text-blocks are for --measure")
        if html_file is not None:
            _write_page(html_file, steps, choice, run)
    _show(steps, choice, run, as_json=as_json)
    if html_file is not None and not as_json:
        console.show(plain(f"robustness: wrote {html_file}"))
    _require_measured(steps, line)


def _require_measured(steps: Sequence[Step], line: LiveLine) -> None:
    failed = [step for step in steps if step.unmeasurable]
    for step in failed:
        line.say(f"{step.scan.label} could not be measured: {step.unmeasurable}")
    if failed:
        raise typer.Exit(console.UNUSABLE)


def _scanned(checkpoints: Sequence[str], choice: _Asked, line: LiveLine) -> list[Step]:
    """Every checkpoint by its weights, in order."""

    def read(reference: str, label: str) -> Scan:
        line.show(f"reading {label}")
        return scanned(reference, label, choice.policy, choice.store)

    references = [reference for reference, _ in in_order(checkpoints)]
    steps: list[Step] = []
    for step in emergence.traced_steps(references, read, unique_labels(references)):
        steps.append(step)
        names = [finding.rule for finding in step.scan.findings]
        if choice.rule not in names:
            raise RuleError(
                f"there is no rule {choice.rule!r} on weights; known: {', '.join(names)}"
            )
        emergence.require_one_run([steps[0], step])
    return steps


def _measurement(steps: Sequence[Step], choice: _Asked, text_blocks: int | None) -> RunMeasurement:
    followed_courses = emergence.courses(steps, choice.rule, also=choice.also)
    settings = common_settings(choice.policy, steps)
    return RunMeasurement(
        settings=settings,
        corpus=load_corpus(settings.corpus, layout=settings.layout),
        dims=choice.also or emergence.followed(followed_courses),
        never_drawn=tuple(sorted(course.dim for course in followed_courses)),
        text_blocks=text_blocks,
        confidence=choice.policy.confidence,
        store_root=console.store_root(choice.store),
    )


def _measured(steps: Sequence[Step], which: str, run: RunMeasurement, line: LiveLine) -> list[Step]:
    """The steps, the wanted ones measured; tells how far that has come."""
    wanted = chosen([step.step for step in steps], which)
    pace = Pace()

    def progress(place: int) -> Progress:
        turn, label = wanted.index(place), steps[place].scan.label

        def tell(seen: int, most: int, figure: float) -> None:
            left = pace.left_s("all", turn * most + seen, len(wanted) * most)
            soon = left is None or left < SOON_S
            line.show(
                f"{label} ({turn + 1} of {len(wanted)}): {figure:.4g} after {seen}/{most} text "
                f"blocks{'' if left is None or soon else f', about {in_words(left)} left'}"
            )

        return tell

    def started(cost: Estimate) -> None:
        if not line.is_watched:
            return
        _, seconds = cost.seconds(processor_speed())
        at_most = f", at most about {in_words(seconds)}" if run.settings.device == "cpu" else ""
        line.say(
            f"measuring {len(wanted)} checkpoint{'s' * (len(wanted) > 1)}: {cost.most_blocks:,} "
            f"text blocks through the model{at_most}; fewer where the store holds numbers"
        )

    return list(run.steps(steps, wanted, progress=progress, started=started))


def _write_page(
    file: Path, steps: Sequence[Step], choice: _Asked, run: RunMeasurement | None
) -> None:
    own = choice.policy.settings(steps[0].reference, steps[0].scan.label)
    options = own.rules.of(choice.rule.split()[0])
    k = float(options.get("k", options.get("n_std", K)))
    try:
        console.write_file(file, to_html(steps, choice.rule, also=choice.also, run=run, k=k))
    except OSError as error:
        raise ReportError(f"{file} could not be written: {error.strerror or error}") from None


def _show(
    steps: Sequence[Step], choice: _Asked, run: RunMeasurement | None, *, as_json: bool
) -> None:
    if as_json:
        facts = emergence.to_dict(steps, choice.rule, also=choice.also)
        console.show_json({**facts, "measurement": run and run.to_dict()})
        return
    unicode = is_encodable(BARS, sys.stdout.encoding)
    for text in lines_of(steps, choice.rule, also=choice.also, unicode=unicode):
        console.show(text)


def _parsed_dims(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise PolicyError(f"--dims={text} names no dimensions: write numbers, as in --dims=308,381")
    return tuple(sorted(set(map(int, parts))))


def _parsed_budget(text: str | None) -> int | None:
    if text is None:
        return TEXT_BLOCKS
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= 10**8):
        raise PolicyError(f"--text-blocks={text} is no number of text blocks: say 64, or all")
    return int(text)


def _require_dims(dims: Sequence[int], size: int) -> None:
    if dims and dims[-1] >= size:
        raise PolicyError(
            f"there is no dimension {dims[-1]}: they are numbered from 0 to {size - 1}"
        )
