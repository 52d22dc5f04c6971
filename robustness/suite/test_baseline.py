"""The checkpoint is like the one whose profile was saved (``--robustness-baseline=FILE``)."""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_matches_baseline(vetting: Vetting, gate: Gate) -> None:
    """Outlier dimensions, perplexity and degradations lie within tolerances of the profile's."""
    gate.decide(vetting)
