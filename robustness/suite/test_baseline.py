"""The checkpoint is like the one whose profile was saved (``--robustness-baseline=FILE``)."""

import pytest

from robustness.checks.checks import Check
from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting

pytestmark = pytest.mark.filterwarnings("default")


def test_matches_baseline(vetting: Vetting, check: Check, gate: Gate) -> None:
    """Outlier dimensions, perplexity and degradations lie within tolerances of the profile's."""
    limits = vetting.settings.checks.matches_baseline
    gate.settle(vetting.baseline.decide(check.suffix, limits, alpha=gate.alpha))
