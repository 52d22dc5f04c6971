"""The model depends on its outlier dimensions (paper), or does not (hardened).

Kovaleva et al. 2021, "BERT Busters: Outlier Dimensions that Disrupt Transformers".
"""

import pytest

from robustness.pytest_support.gate import Dims, Gate
from robustness.vetting import Vetting

pytestmark = pytest.mark.filterwarnings("default")


def test_outliers_are_present(vetting: Vetting, gate: Gate) -> None:
    """The rule finds at least ``min`` and at most ``max`` outlier dimensions."""
    limits = vetting.settings.checks.outliers_are_present
    if vetting.settings.expectation == "paper":
        gate.settle(vetting.outliers().count_lies_within(limits.min, limits.max))
    else:
        gate.settle(vetting.outliers().noted())


def test_ablation_degrades(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """Ablating one outlier dimension alone multiplies perplexity by at least ``min_ratio``."""
    limits = vetting.settings.checks.ablation_degrades
    if vetting.settings.expectation == "paper":
        gate.settle(vetting.ablate(dims).degrades(by=limits.min_ratio, alpha=gate.alpha))
    else:
        gate.settle(vetting.ablate(dims).is_harmless(within=limits.max_ratio, alpha=gate.alpha))


def test_joint_ablation_degrades(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """Ablating all outlier dimensions multiplies perplexity by at least ``min_ratio``."""
    limits = vetting.settings.checks.joint_ablation_degrades
    gate.illustrate(vetting.examples(dims))
    if vetting.settings.expectation == "paper":
        gate.settle(vetting.ablate(dims).degrades(by=limits.min_ratio, alpha=gate.alpha))
    else:
        gate.settle(vetting.ablate(dims).is_harmless(within=limits.max_ratio, alpha=gate.alpha))
