"""Two files of profiles beside each other, without a model: what ``robustness diff`` shows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robustness.errors import BaselineError
from robustness.reference.baseline import Baseline, CheckpointBaseline
from robustness.reference.comparison import Tolerances, compare_baselines, difference, ratio
from robustness.statistics.verdict import Verdict

SCHEMA = 1
"""Of the JSON that ``robustness diff --json`` writes; part of the public interface."""

Outcome = Literal["same", "regressed"]


@dataclass(frozen=True, kw_only=True)
class CheckpointDiff:
    """One checkpoint in two profiles.

    Attributes:
        then: the older profile.
        now: the newer one.
        verdicts: by what they are about: ``outliers``, ``perplexity``, ``dim308``.
        left_out: ablations of the older profile that the newer one does not hold.
        new: ablations of the newer profile that the older one does not hold.
    """

    then: CheckpointBaseline
    now: CheckpointBaseline
    verdicts: Mapping[str, Verdict]
    left_out: tuple[str, ...]
    new: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """``regressed`` if anything lies outside its tolerance."""
        return "same" if all(self.verdicts.values()) else "regressed"

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
                "then_only": {name: _degradation(self.then, name) for name in self.left_out},
                "now_only": {name: _degradation(self.now, name) for name in self.new},
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
    """Every checkpoint of two profiles.

    Args:
        then: the older one, the baseline.
        now: the newer one.
        tolerances: how far they may lie apart.
        alpha: error probability of an interval.
        sources: the profiles' files, for messages.

    Raises:
        BaselineError: if they hold other checkpoints, or were measured under other conditions.
    """
    only = len(then.checkpoints) == len(now.checkpoints) == 1
    for entry in now.checkpoints:
        then.entry(entry.label, only=only, source=sources[0])
    found = []
    for before in then.checkpoints:
        after = now.entry(before.label, only=only, source=sources[1])
        if other := difference(before, after.conditions, after.corpus):
            raise BaselineError(
                f"{before.label} of {sources[0]} and {after.label} of {sources[1]} cannot be "
                f"compared: the first was measured with {other}"
            )
        if before.tokens[: after.held] != after.tokens[: before.held]:
            raise BaselineError(
                f"{before.label} of {sources[0]} and {after.label} of {sources[1]} cannot be "
                "compared: their text blocks have other numbers of scored tokens"
            )
        verdicts = compare_baselines(
            before,
            after,
            tolerances=tolerances,
            alpha=alpha,
        )
        found.append(
            CheckpointDiff(
                then=before,
                now=after,
                verdicts=verdicts,
                left_out=_only_in(before, after),
                new=_only_in(after, before),
            )
        )
    return tuple(found)


def _only_in(one: CheckpointBaseline, other: CheckpointBaseline) -> tuple[str, ...]:
    """Ablations, by where, how and what they switch off."""
    known = [ablated.ablation for ablated in other.ablations]
    return tuple(ablated.name for ablated in one.ablations if ablated.ablation not in known)


def degradation(profile: CheckpointBaseline, name: str) -> float:
    """What an ablation multiplies a profile's perplexity by; may be infinite."""
    delta = profile.delta_nll(name)
    return ratio(delta, profile.tokens[: len(delta)])


def _degradation(profile: CheckpointBaseline, name: str) -> float | str:
    found = degradation(profile, name)
    return found if math.isfinite(found) else "inf"
