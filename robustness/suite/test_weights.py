"""The checkpoint is a working language model."""

import pytest

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting

pytestmark = pytest.mark.filterwarnings("default")


def test_weights_are_finite(vetting: Vetting, gate: Gate) -> None:
    """All parameters are finite, and perplexity is finite and better than a uniform guess.

    A discriminator's loss has to be better than a guess at the base rate.
    """
    if broken := vetting.non_finite_tensors():
        gate.fail(
            claim="all parameters are finite numbers",
            reason=f"{len(broken)} tensors hold NaN or infinity, the first is {broken[0]}",
        )
    gate.settle(vetting.intact().beats_uniform_guess(alpha=gate.alpha))
