"""What matters is which dimensions are ablated, not that some are."""

import pytest

from robustness.pytest_support.gate import Dims, Gate
from robustness.vetting import Vetting

pytestmark = pytest.mark.filterwarnings("default")


def test_random_ablation_is_harmless(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """The median draw of as many non-outlier dimensions stays below ``max_ratio``."""
    limits = vetting.settings.checks.random_ablation_is_harmless
    control = vetting.ablate_random(len(dims))
    gate.settle(control.is_harmless(within=limits.max_ratio, alpha=gate.alpha))


def test_outliers_matter_more_than_chance(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """The joint ΔNLL is positive and at least ``factor`` times the mean control's."""
    limits = vetting.settings.checks.outliers_matter_more_than_chance
    joint = vetting.ablate(dims)
    gate.settle(joint.matters_more_than_chance(factor=limits.factor, alpha=gate.alpha))


def test_magnitude_alone_is_harmless(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """As many dimensions that are extreme in single layers only stay below ``max_ratio``."""
    limits = vetting.settings.checks.magnitude_alone_is_harmless
    gate.settle(vetting.ablate(dims).is_harmless(within=limits.max_ratio, alpha=gate.alpha))
