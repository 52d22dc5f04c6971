"""What a checkpoint came to, in one sentence that a release engineer can act on.

Every format begins with it. What a check has to say stands with the check.
"""

import shlex

from robustness.report.cells import checks_in_order, row_of
from robustness.report.results import CheckpointResult, CheckResult
from robustness.report.words import counted, listed, number

MOST_REFUSED = 2
"""Checks of which a sentence tells; of others, how many there are."""


def conclusion(checkpoint: CheckpointResult, *, partial: bool = False) -> str:
    """Return ``PASS: …``, ``FAIL: …`` or what else it came to, as plain text."""
    if not checkpoint.checks:
        return "NOT VETTED: no check of this checkpoint was decided in this run."
    if checkpoint.refused:
        return f"{_word(checkpoint)}: {_refused(checkpoint)}."
    n = counted(len(checkpoint.checks), "check")
    if partial:
        return f"PARTIAL: nothing failed in {n}, but planned checks were left out."
    found = _beside_reference(checkpoint) or _outliers(checkpoint)
    return f"PASS: {found}{_exceptions(checkpoint)}."


def _word(checkpoint: CheckpointResult) -> str:
    outcomes = {check.outcome for check in checkpoint.refused}
    if "fail" in outcomes:
        return "FAIL"
    return "ERROR" if "error" in outcomes else "INCONCLUSIVE"


def _refused(checkpoint: CheckpointResult) -> str:
    refused = [check for check in checks_in_order(checkpoint.checks) if not check.is_accepted]
    refused.sort(key=lambda check: not check.is_sanity)  # errors of others may follow from it
    told = [finding(check) or in_numbers(check) for check in refused[:MOST_REFUSED]]
    if (rest := len(refused) - MOST_REFUSED) > 0:
        told.append(f"{counted(rest, 'more check')} did not pass")
    location = next((c.details.location for c in refused if c.details.location is not None), None)
    if location is not None and location.sentence:
        told.append(location.sentence)
    return "; ".join([*told, *_advice(checkpoint, refused)])


def _advice(checkpoint: CheckpointResult, refused: list[CheckResult]) -> list[str]:
    """What to do next, where that is clear."""
    other = checkpoint.compared_with
    if other is not None and not other.saved:
        pair = shlex.join([checkpoint.reference, other.reference])
        beside = any(check.source == "reference" for check in refused)
        return [f"see robustness compare {pair}"] if beside else []
    claims = [check for check in refused if check.is_claim and check.outcome == "fail"]
    if other is None and claims and len(claims) == len(refused):
        return [
            "that is what the paper found in BERT, and no damage where it does not hold: "
            "--reference=ORIGINAL asks whether this is still the model that it came from"
        ]
    return []


def _beside_reference(checkpoint: CheckpointResult) -> str:
    """What the checks beside a reference found, if there are any."""
    told = [finding(check) for check in checkpoint.checks if check.source == "reference"]
    return "; ".join(dict.fromkeys(filter(None, told)))


def _outliers(checkpoint: CheckpointResult) -> str:
    """What its outlier dimensions do, and what random ones do."""
    dims = checkpoint.dims
    if not dims:
        return "it has no outlier dimensions"
    plural, times = len(dims) > 1, f"multiplies {checkpoint.quantity} by"
    joint = next(iter(checkpoint.of("joint")), None)
    random = next(iter(checkpoint.of("control")), None)
    drop = _drop(checkpoint)
    told = [f"its outlier dimension{'s are' if plural else ' is'} {listed(dims)}"]
    if joint is not None:
        told.append(f"ablating {'them' if plural else 'it'} {times} {number(joint.measured)}")
    if random is not None:
        lead = "as many random ones" if plural else "a random one"
        told.append(f"ablating {lead} {times} {number(random.measured)}")
    if drop is not None:
        told.append(f"without {'them' if plural else 'it'}, {drop}")
    return "; ".join(told)


def _drop(checkpoint: CheckpointResult) -> str | None:
    """How far the task's score falls without all outlier dimensions."""
    task = checkpoint.task
    for check in checkpoint.checks:
        of_all = check.is_of_one_dimension("task") and check.dims == checkpoint.dims
        if task is not None and of_all and check.measured is not None:
            return f"the {task.metric} on {task.name} falls by {number(check.measured)}"
    return None


def _exceptions(checkpoint: CheckpointResult) -> str:
    expected = sum(check.outcome == "fail" for check in checkpoint.checks)
    spared = sum(check.outcome == "not applicable" for check in checkpoint.checks)
    told = [f"{expected} failing as expected"] * bool(expected)
    told += [f"{spared} not applicable"] * bool(spared)
    return f" ({', '.join(told)})" if told else ""


def finding(check: CheckResult) -> str | None:
    """What the check itself says of its verdict, in a phrase."""
    return None if check.specification is None else check.specification.finding(check)


def in_numbers(check: CheckResult, *, reason: bool = True) -> str:
    """What a check came to with its numbers."""
    name, dims, measured, interval, needed, _, verdict = row_of(check, 0)
    text = name
    if dims:
        text += f" ({dims if 'd' in dims else f'dim {dims}'})"
    text += f": {verdict}"
    if measured:
        text += f", measured {measured}{f' ({interval})' if interval else ''}"
        text += f", needed {needed}" if needed else ""
    return f"{text}; {check.reason}" if reason and check.reason else text
