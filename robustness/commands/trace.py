"""``robustness trace``: when the outlier dimensions of a training run emerged."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

UNUSABLE = 2
"""Exit code where the checkpoints cannot be traced."""


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
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
    stack: Annotated[str, typer.Option(help="Of several: auto, encoder or decoder.")] = "auto",
    policy: Annotated[
        Path | None, typer.Option(help="TOML file with settings of the rules.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder for what has been read before (default: the user's cache)."),
    ] = None,
) -> None:
    """Show when each outlier dimension of a training run emerged, by its checkpoints' weights.

    Dimensions are followed by their index, which means something within one run only. Exit code 0:
    traced, whatever was found; 2: the checkpoints cannot be used.
    """
    from robustness.emergence import Step, in_order, require_one_run, to_dict, traced_steps
    from robustness.errors import RobustnessError, RuleError
    from robustness.plain import encodable, is_encodable
    from robustness.policy import load_policy
    from robustness.reference import unique_labels
    from robustness.scanning import Scan, scan
    from robustness.store import default_root

    root = default_root() if store is None else store.absolute()

    def scanned(reference: str, label: str) -> Scan:
        if sys.stderr.isatty():
            typer.echo(encodable(f"robustness: {label}", sys.stderr.encoding), err=True)
        own = settings.settings(reference, label)
        return scan(reference, label=label, rules=own.rules, stack=own.stack, store_root=root)

    try:
        settings = load_policy(policy, options={"stack": stack})
        references = [reference for reference, _ in in_order(checkpoints)]
        steps: list[Step] = []
        for step in traced_steps(references, scanned, unique_labels(references)):
            steps.append(step)
            names = [finding.rule for finding in step.scan.findings]
            if rule not in names:
                raise RuleError(f"there is no rule {rule!r} on weights; known: {', '.join(names)}")
            require_one_run([steps[0], step])
    except RobustnessError as error:
        typer.echo(encodable(f"robustness: {error}", sys.stderr.encoding), err=True)
        raise typer.Exit(UNUSABLE) from None
    if as_json:
        typer.echo(json.dumps(to_dict(steps, rule), indent=2, allow_nan=False))
        return
    from robustness.report.sketch import BARS
    from robustness.report.trace import lines_of

    encoding = sys.stdout.encoding
    for line in lines_of(steps, rule, unicode=is_encodable(BARS, encoding)):
        typer.echo(encodable(line, encoding))
