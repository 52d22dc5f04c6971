"""``robustness trace``: when the outlier dimensions of a training run emerged."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

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
from robustness.policy.policy import Policy, load_policy
from robustness.report.reporters import REPORTERS
from robustness.report.terminal.scan import BARS
from robustness.report.trace.page import K, to_html
from robustness.report.trace.terminal import lines_of
from robustness.runtime.plain import is_encodable, plain
from robustness.statistics.pace import SOON_S, Pace, in_words
from robustness.trace import emergence
from robustness.trace.emergence import Step
from robustness.trace.run_measure import RunMeasurement, common_settings
from robustness.trace.run_order import chosen, in_order
from robustness.trace.step_measure import TEXT_BLOCKS

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
        also, budget = _parsed_dims(dims), _parsed_budget(text_blocks)
        root = console.store_root(store)
        steps = _scanned(checkpoints, rule, settings, root, line)
        _require_dims(also, steps[0].scan.hidden_size)
        if measure is not None:
            run = _run(steps, rule, also, settings, root, budget)
            steps = _measured(steps, measure, run, line)
        elif corpus is not None or text_blocks is not None:
            line.say("nothing is measured: --corpus and --text-blocks are for --measure")
        if html_file is not None:
            own = settings.settings(steps[0].reference, steps[0].scan.label)
            k = _threshold(own.rules.of(rule.split()[0]))
            _write(html_file, to_html(steps, rule, also=also, run=run, k=k))
    _show(steps, rule, also, run, html_file, as_json=as_json)
    _require_measured(steps, line)


def _require_measured(steps: Sequence[Step], line: LiveLine) -> None:
    failed = [step for step in steps if step.unmeasurable]
    for step in failed:
        line.say(f"{step.scan.label} could not be measured: {step.unmeasurable}")
    if failed:
        raise typer.Exit(console.UNUSABLE)


def _run(
    steps: Sequence[Step],
    rule: str,
    also: tuple[int, ...],
    policy: Policy,
    root: Path,
    text_blocks: int | None,
) -> RunMeasurement:
    histories = emergence.histories(steps, rule, also=also)
    settings = common_settings(policy, steps)
    return RunMeasurement(
        settings=settings,
        corpus=load_corpus(settings.corpus, layout=settings.layout),
        dims=also or emergence.followed(histories),
        never_drawn=tuple(sorted(history.dim for history in histories)),
        text_blocks=text_blocks,
        confidence=policy.confidence,
        store_root=root,
    )


def _show(
    steps: Sequence[Step],
    rule: str,
    also: tuple[int, ...],
    run: RunMeasurement | None,
    html_file: Path | None,
    *,
    as_json: bool,
) -> None:
    if as_json:
        facts = emergence.to_dict(steps, rule, also=also)
        console.show_json({**facts, "measurement": run and run.to_dict()})
        return
    unicode = is_encodable(BARS, sys.stdout.encoding)
    for text in lines_of(steps, rule, also=also, unicode=unicode):
        console.show(text)
    if html_file is not None:
        console.show(plain(f"robustness: wrote {html_file}"))


def _scanned(
    checkpoints: Sequence[str], rule: str, policy: Policy, root: Path, line: LiveLine
) -> list[Step]:
    """Read every checkpoint's weights, in order."""
    numbered = in_order(checkpoints)
    labels = unique_labels([reference for reference, _ in numbered])
    steps: list[Step] = []
    for (reference, number), label in zip(numbered, labels, strict=True):
        line.show(f"reading {label}")
        scan = scanned(reference, label, policy, root)
        names = [finding.rule for finding in scan.findings]
        if rule not in names:
            raise RuleError(f"there is no rule {rule!r} on weights; known: {', '.join(names)}")
        steps.append(Step(reference=reference, step=number, scan=scan))
        emergence.require_one_run([steps[0], steps[-1]])
    return steps


def _measured(steps: Sequence[Step], which: str, run: RunMeasurement, line: LiveLine) -> list[Step]:
    """Measure the wanted steps, and tell how far that has come."""
    wanted = chosen([step.step for step in steps], which)
    pace = Pace()

    def tell(place: int, seen: int, most: int, figure: float) -> None:
        turn = wanted.index(place)
        left = pace.left_s("all", turn * most + seen, len(wanted) * most)
        soon = left is None or left < SOON_S
        line.show(
            f"{steps[place].scan.label} ({turn + 1} of {len(wanted)}): {figure:.4g} after "
            f"{seen}/{most} text blocks"
            f"{'' if left is None or soon else f', about {in_words(left)} left'}"
        )

    return list(run.steps(steps, wanted, tell))


def _threshold(options: Mapping[str, Any]) -> float:
    """Return the standard deviations from which on a rule flags a parameter."""
    return float(options.get("k", options.get("n_std", K)))


def _write(file: Path, page: str) -> None:
    try:
        console.write_file(file, page)
    except OSError as error:
        raise ReportError(f"{file} could not be written: {error.strerror or error}") from None


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
