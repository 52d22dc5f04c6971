"""How a checkpoint is scored, as far as the policy decides it."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, get_args

from robustness.corpus.special_tokens import Bos
from robustness.errors import PolicyError
from robustness.scoring.masked import Masking

if TYPE_CHECKING:
    from robustness.checkpoint.architecture import Scoring

UNIGRAM = "unigram"
"""In the place of a generator: tokens drawn from the corpus itself."""


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """Settings that change what a model is asked.

    Attributes:
        masking: which tokens a masked language model has to predict, and how they are hidden.
        generator: where a discriminator's replaced tokens come from: the masked language model of
            that name, or the corpus' own distribution of tokens.
        bos: whether the token that begins a sequence stands first in every text block: as the
            tokenizer has it (``auto``), ``always`` or ``never``.
        context: tokens of preceding text that a causal model reads and is not asked for.
    """

    masking: Masking = "all"
    generator: str = UNIGRAM
    bos: Bos = "auto"
    context: int = 0

    def key(self) -> dict[str, Any]:
        """What is not as usual: the part of a stored number's identity that stems from here."""
        usual = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    def deviations(self) -> str:
        """The same in words, to be put behind the name of the scoring; empty as a rule."""
        named = ", ".join(f"{name} {value}" for name, value in self.key().items())
        return f" ({named})" if named else ""

    def require_suits(self, scoring: "Scoring", *, label: str) -> None:
        """Refuse a setting that would change nothing.

        Raises:
            PolicyError: naming the setting, and where it belongs.
        """
        maskings = {"masked": get_args(Masking), "permutation": ("all", "pll", "pll-word-l2r")}
        useless = {
            "masking": self.masking not in maskings.get(scoring, ("all",)),
            "context": self.context > 0 and scoring != "causal",
            "generator": self.generator != UNIGRAM and scoring != "replaced-token",
        }
        for name in (name for name, changes_nothing in useless.items() if changes_nothing):
            raise PolicyError(
                f"{name} = {getattr(self, name)!r} changes nothing for {label}, which is scored "
                f'{scoring}: leave it out, or set it under [checkpoints."…"] for those it is for'
            )
