"""What deployment in eight bits would do, and the outlier dimensions' part in that."""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_quantization_is_harmless(vetting: Vetting, gate: Gate) -> None:
    """Simulated int8 weights and activations stay below ``max_ratio``."""
    gate.decide(vetting)
