"""Where in the model the outlier dimensions matter."""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_embedding_norm_alone_is_harmless(vetting: Vetting, gate: Gate) -> None:
    """Ablating them at the norm behind the embedding only stays below ``max_ratio``."""
    gate.decide(vetting)


def test_layer_profile(vetting: Vetting, gate: Gate) -> None:
    """Ablating them in one layer at a time stays below ``max_ratio``, or is only recorded."""
    gate.decide(vetting)
