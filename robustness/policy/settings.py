"""Settings: everything that may differ between the checkpoints of one run, strictly validated."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, create_model, field_validator, model_validator

from robustness.ablation.ablation import Ablation, Mode, SiteName
from robustness.anatomy.stacks import StackChoice
from robustness.checkpoint.reading import ReadOptions
from robustness.checks.limits import Limits, Terms
from robustness.checks.registry import CHECKS
from robustness.corpus.special_tokens import Bos
from robustness.outliers.rules.settings import Rule, Rules
from robustness.runtime.devices import DtypeChoice
from robustness.scoring.masked import Masking
from robustness.scoring.options import UNIGRAM, ScoringOptions
from robustness.store.documents import StrictTable
from robustness.tasks.settings import TaskSettings

Expectation = Literal["paper", "hardened", "regression"]
Change = Literal["conversion", "training"]
LayoutChoice = Literal["auto", "packed", "lines"]


def _layers(value: object) -> object:
    if isinstance(value, list) and value and len(set(map(repr, value))) == len(value):
        if all(type(item) is int and item >= 0 for item in value):
            return value
    elif value == "all":
        return value
    raise ValueError("must be 'all' or a list of different numbers of layers from 0 on")


# As in the checks' tables, validated beforehand.
Layers = Annotated[Literal["all"] | list[int], BeforeValidator(_layers)]


def _checks_table() -> type[StrictTable]:
    tables: dict[str, Any] = {
        name: (check.limits, Field(default_factory=check.limits)) for name, check in CHECKS.items()
    }
    doc = "Limits of the packaged suite's checks, by their names."
    return create_model("Checks", __base__=StrictTable, __doc__=doc, **tables)


if TYPE_CHECKING:

    class Checks(StrictTable):
        """Limits of the packaged suite's checks, by their names; see the registry."""

        def __getattr__(self, name: str) -> Any:
            """The limits of one check."""
else:
    Checks = _checks_table()


class Settings(StrictTable):
    """Everything that may differ between the checkpoints of one run."""

    # assert the paper's findings, their absence, or only what a reference is compared by
    expectation: Expectation = "paper"
    change: Change = "conversion"  # what was done to a candidate that has a reference
    # how outlier dimensions are found; of several, the first decides what is ablated
    rule: Rule | tuple[Rule, ...] = "busters"
    stack: StackChoice = "auto"  # which one is vetted; auto: the only one, or the decoder
    site: SiteName = "output"  # where dimensions are ablated
    mode: Mode = "zero"  # ablated features become 0, or the intact model's mean
    layers: Layers = "all"  # in which layers dimensions are ablated, from 0 on
    allow_pickle: bool = False  # read pytorch_model.bin, where there are no safetensors
    base: str | None = Field(default=None, min_length=1)  # the model that an adapter belongs to
    tokenizer: str | None = Field(default=None, min_length=1)  # one instead of the checkpoint's own
    corpus: str = Field(default="builtin", min_length=1)
    layout: LayoutChoice = "auto"  # running text packed, or one example a line
    block_size: int = Field(default=128, ge=8)  # tokens in a text block, specials included
    masking: Masking = "all"  # how a masked language model's tokens are hidden
    bos: Bos = "auto"  # whether the token that begins a sequence stands first
    context: int = Field(default=0, ge=0)  # tokens of preceding text, read and not scored
    generator: str = Field(default=UNIGRAM, min_length=1)  # replaces a discriminator's tokens
    seed: int = Field(default=0, ge=0)  # of the order of text blocks, the masks and the draws
    device: str = Field(
        default="cpu", pattern=r"^(cpu|cuda(:\d+)?|mps)$", description="cpu, cuda, cuda:N or mps"
    )
    dtype: DtypeChoice = "float32"  # precision of the model's matrix products
    exhaustive: bool = False  # measure the whole corpus, decide at its end
    examples: int = Field(default=3, ge=0, le=32)  # pieces of text shown intact and ablated
    task: TaskSettings = TaskSettings()
    rules: Rules = Rules()
    checks: Checks = Field(default_factory=Checks)

    @field_validator("rule", mode="before")
    @classmethod
    def _one_rule_or_several(cls, value: object) -> object:
        names = list(value) if isinstance(value, list | tuple) else [value]
        rules = get_args(Rule)
        if not names or any(name not in rules for name in names):
            raise ValueError(f"must be one of {', '.join(rules)}, or a list of them")
        if len(set(names)) < len(names):
            raise ValueError("names a rule twice")
        return names[0] if len(names) == 1 else tuple(names)

    @property
    def rule_names(self) -> tuple[Rule, ...]:
        """All rules; the first is the primary one, whose dimensions are ablated."""
        return self.rule if isinstance(self.rule, tuple) else (self.rule,)

    @property
    def read_options(self) -> ReadOptions:
        """What of it changes how a checkpoint's reference is read."""
        return ReadOptions(allow_pickle=self.allow_pickle, base=self.base, tokenizer=self.tokenizer)

    @property
    def scoring_options(self) -> ScoringOptions:
        """What of it changes the questions a model is asked."""
        return ScoringOptions(
            masking=self.masking, generator=self.generator, bos=self.bos, context=self.context
        )

    @model_validator(mode="after")
    def _site_has_layers(self) -> "Settings":
        if self.layers != "all" and self.site == "embedding-norm":
            raise ValueError(
                "site 'embedding-norm' lies before the layers, so layers must be 'all'"
            )
        return self

    def ablation(self, dims: tuple[int, ...]) -> Ablation:
        """Dimensions ablated where and how the policy says."""
        layers = None if self.layers == "all" else tuple(self.layers)
        return Ablation(dims=dims, site=self.site, mode=self.mode, layers=layers)

    def where_possible(self, sites: Collection[str]) -> "Settings":
        """At the site ``residual`` if no site is named and the model has no site ``output``."""
        if "site" in self.model_fields_set or "output" in sites:
            return self
        return self.model_copy(update={"site": "residual"})

    def beside_reference(self) -> "Settings":
        """With the expectation ``regression`` if none is named."""
        if "expectation" in self.model_fields_set:
            return self
        return self.model_copy(update={"expectation": "regression"})

    @property
    def limits(self) -> dict[str, Limits]:
        """The limits of every check, by its name."""
        return {name: getattr(self.checks, name) for name in CHECKS}

    @property
    def terms(self) -> Terms:
        """What checks have to know of it."""
        return Terms(
            expectation=self.expectation,
            change=self.change,
            exhaustive=self.exhaustive,
            seed=self.seed,
            site=self.site,
            limits=self.limits,
        )
