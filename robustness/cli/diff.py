"""``robustness diff``: two saved profiles beside each other, without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from robustness.checks.reference import OutliersAreKeptLimits, PerplexityIsKeptLimits
from robustness.cli.console import AsJson, refusing, show_json
from robustness.errors import RobustnessError
from robustness.policy.policy import load_check
from robustness.reference.baseline import read_baseline
from robustness.reference.baseline_diff import SCHEMA, CheckpointDiff, degradation
from robustness.reference.baseline_diff import diff as compared
from robustness.reference.comparison import Tolerances

STYLES = {"pass": "green", "fail": "bold red"}


def diff(
    then: Annotated[Path, typer.Argument(metavar="A.json", help="The baseline.")],
    now: Annotated[Path, typer.Argument(metavar="B.json", help="What is compared with it.")],
    *,
    dims: Annotated[
        str, typer.Option(help="Outlier dimensions: same, subset, superset or any.")
    ] = OutliersAreKeptLimits().dims,
    max_ratio: Annotated[
        float, typer.Option(help="Perplexity may be up to this many times the baseline's.")
    ] = PerplexityIsKeptLimits().max_ratio,
    min_effect: Annotated[
        float, typer.Option(help="Ablations must add this many times the baseline's nats.")
    ] = OutliersAreKeptLimits().min_effect,
    max_effect: Annotated[
        float, typer.Option(help="... and no more than this many times.")
    ] = OutliersAreKeptLimits().max_effect,
    as_json: AsJson = False,
) -> None:
    """Compare two profiles saved by --robustness-save-baseline.

    Exit code 0: within the tolerances; 1: regressed; 2: not comparable.
    """
    with refusing():
        try:
            tolerances = _tolerances(max_ratio, dims, min_effect, max_effect)
            baselines, sources = (read_baseline(then), read_baseline(now)), (str(then), str(now))
            differences = compared(*baselines, tolerances=tolerances, alpha=0.01, sources=sources)
        except RobustnessError as error:
            if as_json:
                _show_json("not comparable", reason=str(error))
            raise
    regressed = any(checkpoint.outcome == "regressed" for checkpoint in differences)
    if as_json:
        _show_json("regressed" if regressed else "same", differences)
    else:
        for checkpoint in differences:
            _show(checkpoint)
    raise typer.Exit(int(regressed))


def _tolerances(ratio: float, dims: str, least: float, most: float) -> Tolerances:
    """The options, validated as the policy's are."""
    effect = {"dims": dims, "min_effect": least, "max_effect": most}
    outliers = load_check(OutliersAreKeptLimits, effect)
    return Tolerances(
        dims=outliers.dims,
        max_perplexity_ratio=load_check(PerplexityIsKeptLimits, {"max_ratio": ratio}).max_ratio,
        effect=(outliers.min_effect, outliers.max_effect),
    )


def _show_json(
    outcome: str, differences: Sequence[CheckpointDiff] = (), *, reason: str = ""
) -> None:
    checkpoints = [checkpoint.to_dict() for checkpoint in differences]
    facts = {"outcome": outcome, "reason": reason, "checkpoints": checkpoints}
    show_json({"schema": SCHEMA, **facts})


def _show(checkpoint: CheckpointDiff) -> None:
    """A table; names are shown as they are, never taken for markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    then, now = checkpoint.then, checkpoint.now
    console.print(Text(f"{now.label}: {then.reference} at {then.revision}"))
    console.print(Text(f"  and {now.reference} at {now.revision}, on {now.corpus}"))
    table = Table("compared", "ratio", "needed", "blocks", "verdict", "what was found")
    for name, verdict in checkpoint.verdicts.items():
        style, figures = STYLES.get(verdict.outcome, "bold"), ("", "", "")
        if verdict.measured is not None and verdict.threshold is not None:
            needed = f"{'<' if verdict.passes == 'below' else '>='} {verdict.threshold:.4g}"
            figures = f"{verdict.measured:.4g}", needed, str(verdict.seen)
        cells = (name, *figures, verdict.outcome, verdict.reason)
        table.add_row(*(Text(cell, style if cell == verdict.outcome else "") for cell in cells))
    for profile, names, when, not_when in (
        (then, checkpoint.left_out, "then", "now"),
        (now, checkpoint.new, "now", "then"),
    ):
        for name in names:
            harm = f"x{degradation(profile, name):.4g} {when}; not ablated {not_when}"
            table.add_row(Text(name), "", "", "", "not compared", Text(harm))
    console.print(table)
