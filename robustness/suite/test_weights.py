"""The checkpoint is a working language model."""

from robustness.pytest_support.gate import Gate
from robustness.vetting import Vetting


def test_weights_are_finite(vetting: Vetting, gate: Gate) -> None:
    """All parameters are finite, and perplexity is finite and better than a uniform guess.

    A discriminator's loss has to be better than a guess at the base rate. Without a language-model
    head, what the model knows is asked by ``test_task_is_learned``.
    """
    gate.decide(vetting)
