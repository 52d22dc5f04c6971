"""Baselines of a run: read before it, and written after it by the controller alone."""

from typing import TYPE_CHECKING

import pytest

from robustness.errors import BaselineError
from robustness.pytest_support.options import require_writable
from robustness.run.plan import RunPlan

if TYPE_CHECKING:
    from pathlib import Path

SAVE = "--robustness-save-baseline"


def compared(config: pytest.Config, plan: RunPlan) -> RunPlan:
    """The plan with what ``--robustness-baseline`` and ``--robustness-save-baseline`` ask for.

    Raises:
        BaselineError: if the baseline cannot be used, or none could be saved.
        pytest.UsageError: if both options name one file, or it cannot be written.
    """
    source: Path | None = config.getoption("robustness_baseline")
    target: Path | None = config.getoption("robustness_save_baseline")
    if source is None and target is None:
        return plan
    from robustness.reference.baseline import read_baseline
    from robustness.run.baseline_run import require_keepable, with_baseline

    if target is not None:
        if source is not None and source.resolve() == target.resolve():
            raise pytest.UsageError(
                f"robustness: {SAVE} and --robustness-baseline both name {source}: a run must not "
                "replace what it is judged by; save to another file, or in another run"
            )
        require_writable(target, SAVE)
        require_keepable(plan)
    return plan if source is None else with_baseline(plan, read_baseline(source), source)


def save(config: pytest.Config, plan: RunPlan, *, partial: bool) -> tuple[list[str], list[str]]:
    """Write the profile of a run in which everything planned was decided and has passed.

    Args:
        config: of the session.
        plan: of the run.
        partial: whether checks were left out.

    Returns:
        Why it could not be written, and what there is to say about it.
    """
    target: Path | None = config.getoption("robustness_save_baseline")
    if target is None:
        return [], []
    if partial:
        return [f"{SAVE}: nothing was saved, since a baseline is of a whole run"], []
    from robustness.reference.baseline import write_baseline
    from robustness.run.baseline_run import baseline_of

    try:
        profile = baseline_of(plan)
        write_baseline(profile, target)
    except BaselineError as error:
        return [f"{SAVE}: {error}"], []
    except OSError as error:
        return [f"{SAVE}={target} could not be written: {error}"], []
    n = len(profile.checkpoints)
    notes = [f"baseline of {n} checkpoint{'s' * (n > 1)} saved in {target}"]
    if not all(entry.whole for entry in profile.checkpoints):
        notes.append(
            "it holds the text blocks that this run's verdicts needed; --robustness-exhaustive "
            "makes it a baseline of the whole corpus"
        )
    return [], notes
