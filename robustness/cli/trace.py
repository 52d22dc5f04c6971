"""``robustness trace``: when the outlier dimensions of a training run emerged."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robustness.cli.live_line import LiveLine
    from robustness.policy.policy import Policy
    from robustness.trace.emergence import Step
    from robustness.trace.run_measure import RunMeasurement

UNUSABLE = 2
"""Exit code where a checkpoint cannot be traced or measured, or a page not be written."""


def trace(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT...",
            help="Checkpoints of one run: folders, a folder of checkpoint-*, a quoted pattern, or "
            "Hub revisions (name@step_20k).",
        ),
    ],
    *,
    rule: Annotated[str, typer.Option(help="busters, puccetti (code) or (paper).")] = "busters",
    dims: Annotated[
        str | None,
        typer.Option(help="Follow these dimensions, whatever the rule finds: 308,381."),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help="Measure these checkpoints on text, too: all, first, last, every:5, or steps "
            "(9000 or 20k); with commas: every:5,last."
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="The text to measure on (default: the policy's, or the built-in one)."),
    ] = None,
    text_blocks: Annotated[
        str | None,
        typer.Option(help="Text blocks of each checkpoint, in chunks of 16 (default: 64), or all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write a page with figures, one file.")
    ] = None,
    stack: Annotated[str, typer.Option(help="Of several: auto, encoder or decoder.")] = "auto",
    policy: Annotated[
        Path | None, typer.Option(help="TOML file with settings of the rules, corpus, device …")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder for what has been read before (default: the user's cache)."),
    ] = None,
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
    from robustness.cli.live_line import LiveLine
    from robustness.errors import RobustnessError
    from robustness.policy.policy import load_policy
    from robustness.runtime.plain import encodable, plain
    from robustness.store.store import default_root

    root = default_root() if store is None else store.absolute()
    line = LiveLine()
    try:
        if html_file is not None:
            from robustness.report.reporters import REPORTERS

            REPORTERS["html"].require_packages()
        given = {"stack": stack, **({} if corpus is None else {"corpus": corpus})}
        settings = load_policy(policy, options=given)
        also = _parsed_dims(dims)
        budget = _parsed_budget(text_blocks)
        steps = _scanned(checkpoints, rule, settings, root, line)
        _require_dims(also, steps)
        run = None
        if measure is not None:
            run = _measurement(steps, rule, also, settings, budget, root)
            steps = _measured(steps, measure, run, line)
        elif corpus is not None or text_blocks is not None:
            line.say("nothing is measured: --corpus and --text-blocks are for --measure")
        if html_file is not None:
            _write_page(html_file, steps, rule, also, run, settings)
    except RobustnessError as error:
        line.say(str(error))
        raise typer.Exit(UNUSABLE) from None
    finally:
        line.clear()
    _show(steps, rule, also, run, as_json=as_json)
    if html_file is not None and not as_json:
        typer.echo(encodable(plain(f"robustness: wrote {html_file}"), sys.stdout.encoding))
    failed = [step for step in steps if step.unmeasurable]
    for step in failed:
        line.say(f"{step.scan.label} could not be measured: {step.unmeasurable}")
    if failed:
        raise typer.Exit(UNUSABLE)


def _scanned(
    checkpoints: Sequence[str], rule: str, policy: "Policy", root: Path, line: "LiveLine"
) -> "list[Step]":
    """Every checkpoint by its weights, in order."""
    from robustness.checkpoint.reference import unique_labels
    from robustness.errors import RuleError
    from robustness.outliers.scanning import Scan, scan
    from robustness.store.context import Context
    from robustness.trace.emergence import require_one_run, traced_steps
    from robustness.trace.run_order import in_order

    context = Context(root=root)

    def scanned(reference: str, label: str) -> Scan:
        line.show(f"reading {label}")
        own = policy.settings(reference, label)
        return scan(reference, label=label, rules=own.rules, stack=own.stack, context=context)

    references = [reference for reference, _ in in_order(checkpoints)]
    steps: list[Step] = []
    for step in traced_steps(references, scanned, unique_labels(references)):
        steps.append(step)
        names = [finding.rule for finding in step.scan.findings]
        if rule not in names:
            raise RuleError(f"there is no rule {rule!r} on weights; known: {', '.join(names)}")
        require_one_run([steps[0], step])
    return steps


def _measurement(
    steps: "Sequence[Step]",
    rule: str,
    also: tuple[int, ...],
    policy: "Policy",
    text_blocks: int | None,
    root: Path,
) -> "RunMeasurement":
    from robustness.corpus.corpus import load_corpus
    from robustness.trace.emergence import courses, followed
    from robustness.trace.run_measure import RunMeasurement, common_settings

    found = courses(steps, rule, also=also)
    settings = common_settings(policy, steps)
    return RunMeasurement(
        settings=settings,
        corpus=load_corpus(settings.corpus, layout=settings.layout),
        dims=also or followed(found),
        never_drawn=tuple(sorted(course.dim for course in found)),
        text_blocks=text_blocks,
        confidence=policy.confidence,
        store_root=root,
    )


def _measured(
    steps: "Sequence[Step]", which: str, run: "RunMeasurement", line: "LiveLine"
) -> "list[Step]":
    """The steps, the wanted ones measured; tells how far that has come."""
    from robustness.run.estimate import Estimate, processor_speed
    from robustness.statistics.pace import SOON_S, Pace, in_words
    from robustness.trace.run_order import chosen
    from robustness.trace.step_measure import Progress

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
    file: Path,
    steps: "Sequence[Step]",
    rule: str,
    also: tuple[int, ...],
    run: "RunMeasurement | None",
    policy: "Policy",
) -> None:
    from robustness.errors import ReportError
    from robustness.report.trace.page import K, to_html
    from robustness.store.files import write_atomically

    options = policy.settings(steps[0].reference, steps[0].scan.label).rules.of(rule.split()[0])
    k = float(options.get("k", options.get("n_std", K)))
    try:
        write_atomically(file, to_html(steps, rule, also=also, run=run, k=k))
    except OSError as error:
        raise ReportError(f"{file} could not be written: {error.strerror or error}") from None


def _show(
    steps: "Sequence[Step]",
    rule: str,
    also: tuple[int, ...],
    run: "RunMeasurement | None",
    *,
    as_json: bool,
) -> None:
    from robustness.report.terminal.sketch import BARS
    from robustness.report.trace.terminal import lines_of
    from robustness.runtime.plain import encodable, is_encodable
    from robustness.trace.emergence import to_dict

    if as_json:
        facts = {**to_dict(steps, rule, also=also), "measurement": run and run.to_dict()}
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
        return
    encoding = sys.stdout.encoding
    for text in lines_of(steps, rule, also=also, unicode=is_encodable(BARS, encoding)):
        typer.echo(encodable(text, encoding))


def _parsed_dims(text: str | None) -> tuple[int, ...]:
    from robustness.errors import PolicyError

    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise PolicyError(f"--dims={text} names no dimensions: write numbers, as in --dims=308,381")
    return tuple(sorted(set(map(int, parts))))


def _parsed_budget(text: str | None) -> int | None:
    from robustness.errors import PolicyError
    from robustness.trace.step_measure import TEXT_BLOCKS

    if text is None:
        return TEXT_BLOCKS
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= 10**8):
        raise PolicyError(f"--text-blocks={text} is no number of text blocks: say 64, or all")
    return int(text)


def _require_dims(dims: Sequence[int], steps: "Sequence[Step]") -> None:
    from robustness.errors import PolicyError

    size = steps[0].scan.hidden_size
    if dims and dims[-1] >= size:
        raise PolicyError(
            f"there is no dimension {dims[-1]}: they are numbered from 0 to {size - 1}"
        )
