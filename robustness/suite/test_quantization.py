"""What deployment in eight bits would do, and the outlier dimensions' part in that."""

import pytest

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting

pytestmark = pytest.mark.filterwarnings("default")


def test_quantization_is_harmless(vetting: Vetting, gate: Gate) -> None:
    """Simulated int8 weights and activations stay below ``max_ratio``."""
    gate.decide(vetting)
