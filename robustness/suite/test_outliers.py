"""The model depends on its outlier dimensions (paper), or does not (hardened).

Kovaleva et al. 2021, "BERT Busters: Outlier Dimensions that Disrupt Transformers".
"""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_outliers_are_present(vetting: Vetting, gate: Gate) -> None:
    """The rule finds at least ``min`` and at most ``max`` outlier dimensions."""
    gate.decide(vetting)


def test_ablation_degrades(vetting: Vetting, gate: Gate) -> None:
    """Ablating one outlier dimension alone multiplies perplexity by at least ``min_ratio``."""
    gate.decide(vetting)


def test_joint_ablation_degrades(vetting: Vetting, gate: Gate) -> None:
    """Ablating all outlier dimensions multiplies perplexity by at least ``min_ratio``."""
    gate.illustrate(vetting.examples(gate.check.dims))
    gate.decide(vetting)
