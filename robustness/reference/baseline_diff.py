"""Two files of profiles beside each other, without a model: what ``robustness diff`` shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from robustness.errors import BaselineError
from robustness.reference.baseline import Baseline, CheckpointBaseline
from robustness.reference.comparison import Tolerances, compare_baselines, difference, ratio
from robustness.statistics.verdict import Verdict

SCHEMA = 1
"""Version of the JSON that ``robustness diff --json`` writes; part of the public interface."""

Outcome = Literal["same", "regressed"]


@dataclass(frozen=True, kw_only=True)
class CheckpointDiff:
    """One checkpoint in an older and a newer profile, and ablations that only one of them holds.

    Verdicts are by what they are about: ``outliers``, ``perplexity``, ``dim308``.
    """

    then: CheckpointBaseline
    now: CheckpointBaseline
    verdicts: Mapping[str, Verdict]
    left_out: tuple[str, ...]
    new: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """``regressed`` if anything lies outside its tolerance."""
        accepted = ("pass", "not applicable")
        kept = all(verdict.outcome in accepted for verdict in self.verdicts.values())
        return "same" if kept else "regressed"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "then": self.then.summary(),
            "now": self.now.summary(),
            "outcome": self.outcome,
            "verdicts": {
                name: verdict.model_dump(mode="json") for name, verdict in self.verdicts.items()
            },
            "not_compared": list(self.left_out),
            "degradations": {
                "then_only": _degradations(self.then, self.left_out),
                "now_only": _degradations(self.now, self.new),
            },
        }


def diff(
    then: Baseline,
    now: Baseline,
    *,
    tolerances: Tolerances,
    alpha: float,
    sources: tuple[str, str],
) -> tuple[CheckpointDiff, ...]:
    """Every checkpoint of two profiles, which were read from ``sources``.

    A BaselineError says that they hold other checkpoints, or were measured otherwise.
    """
    alone = len(then.checkpoints) == len(now.checkpoints) == 1
    for entry in now.checkpoints:
        then.entry(entry.label, source=sources[0], alone=alone)
    differences = []
    for before in then.checkpoints:
        after = now.entry(before.label, source=sources[1], alone=alone)
        _require_comparable(before, after, sources)
        verdicts = compare_baselines(before, after, tolerances=tolerances, alpha=alpha)
        gone, new = _only_in(before, after), _only_in(after, before)
        differences.append(
            CheckpointDiff(then=before, now=after, verdicts=verdicts, left_out=gone, new=new)
        )
    return tuple(differences)


def _require_comparable(
    then: CheckpointBaseline, now: CheckpointBaseline, sources: tuple[str, str]
) -> None:
    if other := difference(then, now.conditions, now.corpus):
        reason = f"the first was measured with {other}"
    elif then.tokens[: now.held] != now.tokens[: then.held]:
        reason = "their text blocks have other numbers of scored tokens"
    else:
        return
    raise BaselineError(
        f"{then.label} of {sources[0]} and {now.label} of {sources[1]} cannot be compared: {reason}"
    )


def _only_in(baseline: CheckpointBaseline, other: CheckpointBaseline) -> tuple[str, ...]:
    other_names = other.names_by_ablation
    return tuple(name for key, name in baseline.names_by_ablation.items() if key not in other_names)


def degradation(profile: CheckpointBaseline, name: str) -> float:
    """What an ablation multiplies a profile's perplexity by; may be infinite."""
    delta = profile.delta_nll(name)
    return ratio(delta, profile.tokens[: len(delta)])


def _degradations(profile: CheckpointBaseline, names: Sequence[str]) -> dict[str, float | str]:
    degradations = {name: degradation(profile, name) for name in names}
    return {name: ratio if math.isfinite(ratio) else "inf" for name, ratio in degradations.items()}
