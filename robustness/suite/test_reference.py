"""The candidate is still the model that it came from (``--robustness-reference=X``)."""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_perplexity_is_kept(vetting: Vetting, gate: Gate) -> None:
    """Perplexity is less than ``max_ratio`` times the reference's on the same text blocks."""
    gate.decide(vetting)


def test_predictions_are_kept(vetting: Vetting, gate: Gate) -> None:
    """At less than ``max_share`` of the scored positions the most probable token is another."""
    gate.decide(vetting)


def test_distributions_are_kept(vetting: Vetting, gate: Gate) -> None:
    """The mean KL divergence from the reference is less than ``max_nats`` per position."""
    gate.decide(vetting)


def test_outliers_are_kept(vetting: Vetting, gate: Gate) -> None:
    """The same outlier dimensions, and ablating them does about as much harm."""
    gate.decide(vetting)


def test_task_score_is_kept(vetting: Vetting, gate: Gate) -> None:
    """The score on the task is less than ``max_drop`` lower than the reference's."""
    gate.decide(vetting)
