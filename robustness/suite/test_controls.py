"""What matters is which dimensions are ablated, not that some are."""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_random_ablation_is_harmless(vetting: Vetting, gate: Gate) -> None:
    """The median draw of as many non-outlier dimensions stays below ``max_ratio``."""
    gate.decide(vetting)


def test_outliers_matter_more_than_chance(vetting: Vetting, gate: Gate) -> None:
    """The joint ΔNLL is positive and at least ``factor`` times the mean control's."""
    gate.decide(vetting)


def test_magnitude_alone_is_harmless(vetting: Vetting, gate: Gate) -> None:
    """As many dimensions that are extreme in single layers only stay below ``max_ratio``."""
    gate.decide(vetting)
