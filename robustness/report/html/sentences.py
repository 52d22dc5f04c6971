"""What a report says of a run and of a checkpoint, in sentences."""

from robustness.report.html.figures import degradations
from robustness.report.html.heat_map import columns, kept
from robustness.report.html.parts import interval
from robustness.report.results import CheckpointResult, CheckResult, Report
from robustness.report.words import number


def outcome(checkpoint: CheckpointResult) -> str:
    """Return ``pass``, ``fail``, or ``none`` if no check was decided."""
    if not checkpoint.checks:
        return "none"
    return "fail" if checkpoint.refused else "pass"


def run_verdict(report: Report) -> str:
    """Return the verdict on the whole run in one sentence."""
    n = len(report.checkpoints)
    subject = "The checkpoint" if n == 1 else f"All {n} checkpoints"
    if report.passed:
        return f"{subject} passed."
    if report.partial:
        return "A partial run: some of the planned checks were left out, so it is no verdict."
    if report.shard is not None:
        shard = f"Shard {report.shard.index} of {report.shard.count}"
        return f"{shard}: “robustness merge” gives the verdict."
    bad = sum(outcome(checkpoint) != "pass" for checkpoint in report.checkpoints)
    if not bad:
        return "The run did not pass, although every check of a checkpoint did."
    if bad == n:
        return "The checkpoint did not pass." if n == 1 else f"None of the {n} checkpoints passed."
    return f"{bad} of {n} checkpoints did not pass."


def thinned(checkpoint: CheckpointResult, n_checkpoints: int) -> str:
    """Say how much of the heat map had to be left out, if any."""
    width = columns(checkpoint.hidden_size, checkpoint.layers, n_checkpoints)[0].width
    sentences = []
    if (n_kept := len(kept(checkpoint))) < checkpoint.hidden_size:
        sentences.append(
            f"The result holds the {n_kept:,} most extreme of {checkpoint.hidden_size:,} "
            "dimensions; where there is no colour, others are."
        )
    if width > 1:
        sentences.append(
            f"Each column stands for {width} neighbouring dimensions and shows, per layer, the "
            "one farthest from the mean."
        )
    return " ".join(sentences)


def described_degradation(checkpoint: CheckpointResult) -> str:
    """Describe the degradations for those who do not see them."""
    rows = [
        f"{check.row}: {number(check.measured)} times{interval(check.interval, check.exact)}, "
        f"{check.outcome}"
        for check in degradations(checkpoint)
    ]
    return f"Degradations on a logarithmic axis. {'; '.join(rows)}."


def described_history(check: CheckResult) -> str:
    """Describe how a decision narrowed for those who do not see it."""
    first, last = check.history[0], check.history[-1]
    return (
        f"After {first.seen} {check.unit}: {number(first.measured)}{interval(first.interval)}; "
        f"after {last.seen}: {number(last.measured)}{interval(last.interval)}; "
        f"needed {'at least' if check.passes == 'above' else 'below'} {number(check.threshold)}."
    )
