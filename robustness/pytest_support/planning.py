"""The plan of a run, made in the process that the user started."""

import sys
import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pytest

from robustness.errors import RobustnessError
from robustness.pytest_support import baselines
from robustness.pytest_support.options import require_writable, run_policy, store_root
from robustness.pytest_support.progress import Line
from robustness.report.reporters import REPORTERS
from robustness.run.plan import RunPlan
from robustness.run.planning import make_plan
from robustness.store.context import Context

if TYPE_CHECKING:
    from pathlib import Path


def planned_run(config: pytest.Config, progress: Line, *, today: date) -> RunPlan:
    """Resolve, examine and plan.

    Raises:
        pytest.UsageError: with one sentence, for everything that is wrong by then.
    """
    wanted = [
        reporter
        for reporter in REPORTERS.values()
        if reporter.in_a_run and config.getoption(f"robustness_{reporter.name}") is not None
    ]
    for reporter in wanted:
        file: Path = config.getoption(f"robustness_{reporter.name}")
        require_writable(file, f"--robustness-{reporter.name}")
    try:
        for reporter in wanted:
            reporter.require_packages()
        context = Context(
            root=store_root(config),
            newer_than=time.time() if config.getoption("robustness_fresh") else None,
            progress=progress.step,
        )
        plan = make_plan(config.getoption("robustness_models"), run_policy(config), context)
        return _sharded(config, baselines.compared(config, plan).expecting(today))
    except RobustnessError as error:
        raise pytest.UsageError(f"robustness: {error}") from None
    finally:
        progress.clear()


def _sharded(config: pytest.Config, plan: RunPlan) -> RunPlan:
    """The part that ``--robustness-shard`` asks for, of the whole plan."""
    text: str | None = config.getoption("robustness_shard")
    if text is None:
        return plan
    from robustness.run.shards import Part, take

    part = Part.parse(text)
    if config.getoption("robustness_json") is None:
        raise pytest.UsageError(
            f"robustness: --robustness-shard={part} needs --robustness-json=FILE, from which "
            "'robustness merge' makes the verdict"
        )
    if config.getoption("robustness_save_baseline") is not None:
        raise pytest.UsageError(
            f"robustness: --robustness-shard={part} saves no baseline, since a baseline is of a "
            "whole run"
        )
    return take(plan, part)


def show_plan(config: pytest.Config) -> int:
    """Write what would run and what it would cost, for ``--robustness-plan``.

    Raises:
        pytest.UsageError: as before a run, or if there is no checkpoint.
    """
    from robustness.report.terminal import header
    from robustness.run.estimate import describe, processor_speed

    if not config.getoption("robustness_models"):
        raise pytest.UsageError("robustness: --robustness-plan needs a checkpoint: add --model=X")
    plan = planned_run(config, Line(config), today=datetime.now(UTC).date())
    for line in header.plan_lines(plan, describe(plan, processor_speed())):
        sys.stdout.write(f"{line}\n")
    return int(pytest.ExitCode.OK)
