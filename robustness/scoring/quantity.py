"""What a scoring measures, and how reports speak of it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustness.checkpoint.architecture import Scoring


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """The measured quantity by its name: perplexity, or a loss whose exponential is none."""

    name: str
    is_perplexity: bool

    def grows(self, bound: str, ratio: float) -> str:
        """The words for a degradation that is ``at least``, or ``less than``, a ratio."""
        if self.is_perplexity:
            return f"multiplies {self.name} by {bound} {ratio:g}"
        return (
            f"adds {bound} {math.log(ratio):.3g} nats per token to the {self.name} (its "
            f"exponential grows by {bound} {ratio:g})"
        )

    def better_than_chance(self, vocabulary: int, chance_nats: float) -> str:
        """The words for an intact model that has learnt something."""
        if self.is_perplexity:
            return (
                f"the intact model's {self.name}, divided by the {vocabulary} tokens of its "
                "vocabulary, stays below 1: it beats a uniform guess"
            )
        return (
            f"the intact model's {self.name} stays below {chance_nats:.4g} nats per token, the "
            "entropy of the base rate (measured: the exponential of the difference): it beats a "
            "guess that looks at no text"
        )

    def figure(self, mean_nll_nats: float) -> float:
        """Its value for a mean NLL per scored token."""
        if not self.is_perplexity:
            return mean_nll_nats
        return math.exp(mean_nll_nats) if mean_nll_nats < 700 else math.inf


def quantity(scoring: "Scoring | str") -> Quantity:
    """What a scoring measures."""
    if scoring == "replaced-token":
        return Quantity(name="replaced-token loss", is_perplexity=False)
    return Quantity(name="perplexity", is_perplexity=True)
