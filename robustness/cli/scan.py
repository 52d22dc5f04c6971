"""``robustness scan``: the outlier dimensions of checkpoints, read from a few of their tensors."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

UNUSABLE = 2
"""Exit code where a checkpoint cannot be scanned."""


def scan(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A folder, a Hub id (name or name@revision), a .gguf file, or pkg:package/path.",
        ),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
    stack: Annotated[str, typer.Option(help="Of several: auto, encoder or decoder.")] = "auto",
    policy: Annotated[
        Path | None,
        typer.Option(help="TOML file with settings of the rules (default: their defaults)."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder for what has been read before (default: the user's cache)."),
    ] = None,
) -> None:
    """Show the outlier dimensions of checkpoints by every rule on weights.

    No model is built and no text is read.

    Exit code 0: scanned, whatever was found; 2: a checkpoint cannot be used.
    """
    from robustness.checkpoint.reference import unique_labels
    from robustness.errors import RobustnessError
    from robustness.outliers.scanning import SCHEMA, Scan, comparable
    from robustness.outliers.scanning import scan as scan_one
    from robustness.policy.policy import load_policy
    from robustness.runtime.plain import encodable, is_encodable
    from robustness.store.context import Context
    from robustness.store.store import default_root

    found: list[Scan] = []
    errors: list[dict[str, str]] = []

    def failed(reference: str, error: RobustnessError) -> None:
        errors.append({"reference": reference, "reason": str(error)})
        say(f"robustness: {error}")

    def say(line: str) -> None:
        typer.echo(encodable(line, sys.stderr.encoding), err=True)

    def progress(line: str) -> None:
        if sys.stderr.isatty():
            say(f"robustness: {line} ...")

    root = default_root() if store is None else store.absolute()
    context = Context(root=root, progress=progress)
    try:
        settings = load_policy(policy, options={"stack": stack})
        labels = unique_labels(models)
    except RobustnessError as error:
        failed(models[0] if len(models) == 1 else "", error)
        labels = []
    for reference, label in zip(models, labels, strict=False):
        try:
            own = settings.settings(reference, label)
            found.append(
                scan_one(
                    reference,
                    label=label,
                    rules=own.rules,
                    stack=own.stack,
                    context=context,
                )
            )
        except RobustnessError as error:
            failed(reference, error)
    if as_json:
        shown = comparable(found)
        facts: dict[str, Any] = {
            "schema": SCHEMA,
            "checkpoints": [one.to_dict(shown[one.label]) for one in found],
            "errors": errors,
        }
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
    elif found:
        from robustness.report.terminal.scan import lines_of
        from robustness.report.terminal.sketch import BARS

        encoding = sys.stdout.encoding
        for line in lines_of(found, unicode=is_encodable(BARS, encoding)):
            typer.echo(encodable(line, encoding))
    if errors:
        raise typer.Exit(UNUSABLE)
