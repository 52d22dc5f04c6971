"""Where in the model the outlier dimensions matter."""

import pytest

from robustness.pytest_support.gate import Dims, Gate
from robustness.vetting import Vetting

pytestmark = pytest.mark.filterwarnings("default")


def test_embedding_norm_alone_is_harmless(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """Ablating them at the norm behind the embedding only stays below ``max_ratio``."""
    limits = vetting.settings.checks.embedding_norm_alone_is_harmless
    ablated = vetting.ablate(dims, site="embedding-norm")
    gate.settle(ablated.is_harmless(within=limits.max_ratio, alpha=gate.alpha))


def test_layer_profile(vetting: Vetting, dims: Dims, gate: Gate) -> None:
    """Ablating them in one layer at a time stays below ``max_ratio``, or is only recorded."""
    limits = vetting.settings.checks.layer_profile
    profile = vetting.layer_profile(dims)
    if limits.max_ratio == "record":
        gate.settle(profile.recorded(alpha=gate.alpha))
    else:
        gate.settle(profile.stays_below(limits.max_ratio, alpha=gate.alpha))
