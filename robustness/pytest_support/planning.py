"""The plan of a run, made in the process that the user started of what the command line asks."""

import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from robustness.errors import RobustnessError
from robustness.policy.policy import Policy, PolicyFile, load_policy
from robustness.pytest_support.progress import Line
from robustness.report.reporters import REPORTERS, Reporter
from robustness.report.terminal import header
from robustness.run.plan import RunPlan
from robustness.run.planning import Against, make_plan
from robustness.store.context import Context
from robustness.store.files import missing_folder
from robustness.store.store import default_root

SAVE = "--robustness-save-baseline"


def planned_run(config: pytest.Config, progress: Line, *, today: date) -> RunPlan:
    """Resolve, profile and plan, or raise a UsageError with one sentence on what is wrong."""
    files = list(named_reports(config))
    for reporter, file in files:
        _require_writable(file, f"--robustness-{reporter.name}")
    try:
        for reporter, _ in files:
            reporter.require_packages()
        chosen = named_path(config, "store")
        context = Context(
            root=default_root() if chosen is None else chosen.absolute(),
            newer_than=time.time() if config.getoption("robustness_fresh") else None,
            progress=progress.step,
        )
        models, against = config.getoption("robustness_models"), _against(config)
        plan = make_plan(models, _policy(config), context, against=against)
        _require_keepable(config, plan)
        return _sharded(config, plan.expecting(today))
    except RobustnessError as error:
        raise pytest.UsageError(f"robustness: {error}") from None
    finally:
        progress.clear()


def named_path(config: pytest.Config, option: str) -> Path | None:
    """The file or folder that an option of the plugin names."""
    text: str | None = config.getoption(f"robustness_{option}")
    return Path(text) if text else None


def named_reports(config: pytest.Config) -> Iterator[tuple[Reporter, Path]]:
    """The formats that a file was named for, with it."""
    for reporter in REPORTERS.values():
        if reporter.in_a_run and (file := named_path(config, reporter.name)):
            yield reporter, file


def new_folders(config: pytest.Config) -> dict[Path, str]:
    """Folders that are missing on the way to outputs, each with an option that needs it."""
    named = [(f"--robustness-{reporter.name}", file) for reporter, file in named_reports(config)]
    others = ((name, named_path(config, name)) for name in ("save_baseline", "store"))
    named += [(f"--robustness-{name.replace('_', '-')}", place) for name, place in others if place]
    found = ((missing_folder(place), option) for option, place in named)
    return {folder: option for folder, option in found if folder is not None}


def _require_writable(file: Path, option: str) -> None:
    """Find out before the run that its report could not be written after it."""
    folder = next(parent for parent in file.absolute().parents if os.path.exists(parent))  # noqa: PTH110 (false where it may not be looked into)
    try:
        if file.exists() and not file.is_file():
            raise FileExistsError("there is something that is no file")
        with NamedTemporaryFile(dir=folder, prefix="."):
            return
    except OSError as error:
        raise pytest.UsageError(
            f"robustness: {option}={file} cannot be written ({error}); name a file in a "
            "folder that can"
        ) from None


def _policy(config: pytest.Config) -> Policy:
    """Options over a file, which is looked for where pytest was started first."""
    given = {name: config.getoption(f"robustness_{name}", None) for name in PolicyFile.model_fields}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "task" in options:
        options["task"] = {"data": options["task"]}
    if enabled := config.getoption("robustness_enable"):
        options["checks"] = {name.removeprefix("test_"): {"enabled": True} for name in enabled}
    folders = (config.invocation_params.dir, config.rootpath)
    return load_policy(named_path(config, "policy"), folders=folders, options=options)


def _against(config: pytest.Config) -> Against | None:
    """What ``--robustness-reference`` or ``--robustness-baseline`` names: profiles are read."""
    named: str | None = config.getoption("robustness_reference")
    source = named_path(config, "baseline")
    if named is not None and not named.strip():
        raise pytest.UsageError(
            "robustness: --reference names nothing (an unset variable?): name a checkpoint or a "
            "saved profile, or leave it away"
        )
    if named and source:
        raise pytest.UsageError(
            f"robustness: --robustness-baseline={source} and --robustness-reference={named} both "
            "name what is compared with: leave one away"
        )
    if named and named.lower().endswith(".json") and not Path(named).is_dir():
        source = Path(named)
    if source is None:
        return named or None
    from robustness.reference.baseline import read_baseline
    from robustness.run.reference_run import SavedProfiles

    target = named_path(config, "save_baseline")
    if target is not None and source.resolve() == target.resolve():
        raise pytest.UsageError(
            f"robustness: {SAVE} names {source}, with which this run is compared: a run must not "
            "replace what it is judged by; save to another file, or in another run"
        )
    return SavedProfiles(baseline=read_baseline(source), source=source)


def _require_keepable(config: pytest.Config, plan: RunPlan) -> None:
    """Find out before the run that its profile could not be saved after it."""
    target = named_path(config, "save_baseline")
    if target is not None:
        from robustness.run.reference_run import require_keepable

        _require_writable(target, SAVE)
        require_keepable(plan)


def _sharded(config: pytest.Config, plan: RunPlan) -> RunPlan:
    """The part that ``--robustness-shard`` asks for, of the whole plan."""
    text: str | None = config.getoption("robustness_shard")
    if text is None:
        return plan
    from robustness.run.shards import Part, take

    part = Part.parse(text)
    if config.getoption("robustness_json") is None:
        why = "needs --robustness-json=FILE, from which 'robustness merge' makes the verdict"
    elif config.getoption("robustness_save_baseline") is not None:
        why = "saves no baseline, since a baseline is of a whole run"
    else:
        return take(plan, part)
    raise pytest.UsageError(f"robustness: --robustness-shard={part} {why}")


def show_plan(config: pytest.Config) -> int:
    """Write what would run and what it would cost, for ``--robustness-plan``."""
    from robustness.run.estimate import describe, processor_speed

    if not config.getoption("robustness_models"):
        raise pytest.UsageError("robustness: --robustness-plan needs a checkpoint: add --model=X")
    plan = planned_run(config, Line(config), today=datetime.now(UTC).date())
    for line in header.plan_lines(plan, describe(plan, processor_speed())):
        sys.stdout.write(f"{line}\n")
    return int(pytest.ExitCode.OK)
