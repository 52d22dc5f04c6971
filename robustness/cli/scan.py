"""``robustness scan``: the outlier dimensions of checkpoints, read from a few of their tensors."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from robustness.checkpoint.reference import unique_labels
from robustness.cli.console import (
    UNUSABLE,
    AllowPickle,
    AsJson,
    Base,
    Stack,
    Store,
    given,
    say,
    show,
    show_json,
    store_root,
)
from robustness.errors import RobustnessError
from robustness.outliers import scanning
from robustness.outliers.scanning import SCHEMA, Scan, comparable
from robustness.policy.policy import Policy, load_policy
from robustness.report.terminal.scan import BARS, lines_of
from robustness.runtime.plain import is_encodable
from robustness.store.context import Context

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="A folder, a Hub id (name or name@revision), a .gguf file, or pkg:package/path.",
    ),
]
PolicyFile = Annotated[
    Path | None,
    typer.Option(help="TOML file with settings of the rules (default: their defaults)."),
]


def scan(
    models: Models,
    *,
    as_json: AsJson = False,
    stack: Stack = "auto",
    allow_pickle: AllowPickle = None,
    base: Base = None,
    policy: PolicyFile = None,
    store: Store = None,
) -> None:
    """Show the outlier dimensions of checkpoints by every rule on weights.

    No model is built and no text is read.

    Exit code 0: scanned, whatever was found; 2: a checkpoint cannot be used.
    """
    scans: list[Scan] = []
    errors: list[dict[str, str]] = []

    def failed(reference: str, error: RobustnessError) -> None:
        errors.append({"reference": reference, "reason": str(error)})
        say(str(error))

    try:
        options = {"stack": stack, **given(allow_pickle=allow_pickle, base=base)}
        settings = load_policy(policy, options=options)
        labels = unique_labels(models)
        root = store_root(store)
    except RobustnessError as error:
        failed(models[0] if len(models) == 1 else "", error)
        labels = []
    for reference, label in zip(models, labels, strict=False):
        try:
            scans.append(scanned(reference, label, settings, root, progress=_progress))
        except RobustnessError as error:
            failed(reference, error)
    if as_json:
        shown = comparable(scans)
        checkpoints = [scan.to_dict(shown[scan.label]) for scan in scans]
        show_json({"schema": SCHEMA, "checkpoints": checkpoints, "errors": errors})
    elif scans:
        lines = lines_of(scans, unicode=is_encodable(BARS, sys.stdout.encoding))
        show("\n".join(lines))
    if errors:
        raise typer.Exit(UNUSABLE)


def scanned(
    reference: str,
    label: str,
    policy: Policy,
    root: Path,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> Scan:
    """One checkpoint's scan by a policy, with the store in a folder."""
    own = policy.settings(reference, label)
    return scanning.scan(
        reference,
        label=label,
        rules=own.rules,
        stack=own.stack,
        context=Context(root=root, progress=progress),
        options=own.read_options,
    )


def _progress(step: str) -> None:
    if sys.stderr.isatty():
        say(f"{step} ...")
