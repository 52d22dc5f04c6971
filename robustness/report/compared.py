"""What ``robustness compare`` found, as one typed document, and its first line."""

import math

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.scoring.quantity import quantity
from robustness.statistics.figures import Figures
from robustness.statistics.location import Location

SCHEMA = 1
"""Version of the JSON that ``robustness compare --json`` writes; part of the public interface."""


class Side(Figures):
    """One of the two checkpoints."""

    label: str
    reference: str
    revision: str
    architecture: str

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Side":
        """What is told of a checkpoint."""
        return cls(**{name: getattr(checkpoint, name) for name in cls.model_fields})


class Compared(Figures):
    """A candidate beside its reference.

    Attributes:
        corpus: the text that both were run on; None where only files were read.
        scoring: what the candidate was trained for.
    """

    candidate: Side
    reference: Side
    corpus: str | None
    scoring: str
    location: Location

    @property
    def headline(self) -> str:
        """What matters most, in one sentence."""
        where = self.location.sentence
        if self.location.states is None:
            return f"{where[:1].upper()}{where[1:]}." if where else "Nothing could be compared."
        return f"{self.harm}{f'; {where}' if where else ''}."

    @property
    def harm(self) -> str:
        """What the candidate loses on the text blocks that were run."""
        states, what = self.location.states, quantity(self.scoring)
        assert states is not None
        blocks = f"on {states.text_blocks} text blocks"
        name = f"{what.name[:1].upper()}{what.name[1:]}"
        if not math.isfinite(states.harm_nats):
            return f"{name} is not finite {blocks}"
        if what.is_perplexity:
            ratio = math.exp(min(states.harm_nats, 700))
            return f"{name} is {ratio:.4g} times the reference's {blocks}"
        return f"{name} is {states.harm_nats:+.4g} nats per token beside the reference's {blocks}"

    @property
    def figures(self) -> tuple[float, float]:
        """The candidate's perplexity, or loss, and the reference's."""
        states, what = self.location.states, quantity(self.scoring)
        assert states is not None
        return what.figure(states.candidate_nats), what.figure(states.reference_nats)
