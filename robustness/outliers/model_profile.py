"""Anatomy and outlier dimensions of a checkpoint, found before a run.

Weight rules read a few tensors from the files; only rules on activations load the model and read a
few text blocks with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from robustness.ablation.ablation import Ablation
from robustness.anatomy.recorded import recorded_anatomy
from robustness.anatomy.stacks import StackChoice
from robustness.errors import CheckpointError, NotFinite, UnsupportedSite
from robustness.outliers.activation_source import ActivationSource
from robustness.outliers.outliers import Detection
from robustness.outliers.rules import RULES, Rule
from robustness.outliers.rules.settings import Rules
from robustness.outliers.site_values import SiteValues, site_values
from robustness.runtime.libraries import library_versions
from robustness.store.context import Context
from robustness.store.documents import PlainRecord
from robustness.store.store import Record

if TYPE_CHECKING:
    from robustness.anatomy.parameters import SiteParameters
    from robustness.anatomy.stacks import Anatomy, Stack
    from robustness.checkpoint.checkpoint import Checkpoint

MODEL_PROFILE = 6
"""Version of what a model profile records; part of its identity in the store."""


@dataclass(frozen=True, kw_only=True)
class ModelProfile(PlainRecord):
    """What is known of a checkpoint before it is measured.

    Attributes:
        anatomy_record: the anatomy in plain JSON types.
        detection: what the primary rule found: its dimensions are ablated.
        layers: L, of the vetted stack.
        hidden_size: D.
        distinct_sites: different modules among the layers' output sites (1 when layers share).
        stack: its role: ``only``, ``encoder`` or ``decoder``.
        sites: where its features can be ablated.
        compared: what the other rules found that were asked for, in their order.
        values: the parameters at the output sites, for reports; too much to hand on.
    """

    anatomy_record: Mapping[str, Any]
    detection: Detection
    layers: int
    hidden_size: int
    distinct_sites: int
    stack: str = "only"
    sites: tuple[str, ...] = ("output", "residual")
    compared: tuple[Detection, ...] = ()
    values: Annotated[SiteValues | None, Field(exclude=True)] = field(
        default=None, compare=False, repr=False
    )

    @property
    def detections(self) -> tuple[Detection, ...]:
        """What every rule found, the primary one's first."""
        return (self.detection, *self.compared)

    @cached_property
    def anatomy(self) -> "Anatomy":
        """Where the model can be ablated."""
        from robustness.anatomy.stacks import Anatomy

        return Anatomy.from_dict(self.anatomy_record)

    def require(self, ablation: Ablation) -> None:
        """Refuse an ablation of a site or layer that the model does not have."""
        if ablation.site not in self.sites:
            self.anatomy.stack.at(ablation.site)  # says why
        beyond = [layer for layer in ablation.layers or () if layer >= self.layers]
        if beyond:
            raise UnsupportedSite(
                f"There is no layer {beyond[0]}: the model's layers are numbered from 0 to "
                f"{self.layers - 1}."
            )


def profile_model(
    checkpoint: "Checkpoint",
    rules: Rules,
    names: Sequence[str],
    *,
    stack: StackChoice = "auto",
    source: ActivationSource,
    context: Context,
    values: bool = False,
) -> ModelProfile:
    """Trace a weightless copy of the model and apply rules.

    The first of the ``names`` is the primary rule; ``source`` is the text, and the model that reads
    it, for rules on activations; ``values`` keeps the parameters at the output sites for a report.

    Raises:
        UnsupportedArchitecture, UnsupportedSite: if tracing finds no layers or no output site, or
            a rule needs another kind of site.
        RuleError: if a rule cannot say anything about such a model.
    """
    anatomy = recorded_anatomy(checkpoint, stack, context)
    identity = {
        "model_profile": MODEL_PROFILE,
        "config": checkpoint.config_hash,
        "weights": checkpoint.weights_hash,
        "architecture": checkpoint.architecture,
        "versions": library_versions(),
    }
    store = context.store(identity)
    search = _Search(checkpoint=checkpoint, anatomy_record=anatomy["anatomy"], source=source)
    keys = [search.key(name, rules.of(name), stack) for name in names]
    primary, *compared = map(Detection.from_dict, store.obtain(keys, search.detect))
    kept: Record = {"values": None}
    if values:
        dims = sorted({dim for detection in (primary, *compared) for dim in detection.dims})
        (kept,) = store.obtain([{"values": dims, "stack": stack}], search.values)
    facts = ("stack", "layers", "hidden_size", "distinct_sites")
    return ModelProfile(
        **{name: anatomy[name] for name in facts},
        anatomy_record=anatomy["anatomy"],
        detection=primary,
        sites=tuple(anatomy["sites"]),
        compared=tuple(compared),
        values=kept["values"] and SiteValues.from_dict(kept["values"]),
    )


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What rules look at, read when the first of them asks for it."""

    checkpoint: "Checkpoint"
    anatomy_record: Mapping[str, Any]
    source: ActivationSource

    def key(self, rule: str, settings: Mapping[str, Any], stack: StackChoice) -> dict[str, Any]:
        key = {"rule": rule, "settings": settings, "stack": stack}
        return {**key, "text": self.source.identity} if RULES[rule].needs_model else key

    def detect(self, key: Mapping[str, Any]) -> Record:
        """What one rule says; where nothing can be compared, that, for the checks to tell."""
        try:
            detection = self._apply(RULES[key["rule"]], key["settings"])
        except NotFinite as error:
            detection = Detection(
                rule=f"{key['rule']}: there is nothing to compare",
                outliers=(),
                by_chance=None,
                magnitude=(),
                not_finite=str(error),
            )
        self.checkpoint.require_unchanged()
        return detection.to_dict()

    def values(self, key: Mapping[str, Any]) -> Record:
        """The parameters at the output sites; none where a rule on activations alone can see."""
        try:
            kinds = [site.kind for site in self._stack.rule_sites]
            values = site_values(self._parameters, kinds=kinds, keep=key["values"])
        except (UnsupportedSite, CheckpointError):  # no output sites, or quantised weights there
            return {"values": None}
        self.checkpoint.require_unchanged()
        return {"values": values.to_dict()}

    def _apply(self, rule: Rule, options: Mapping[str, Any]) -> Detection:
        if rule.reads == "parameters":
            read = self._parameters
            return rule.find(read.scale, read.bias, n_distinct=read.distinct_sites, **options)
        if rule.reads == "outputs":
            return rule.find(self.source.outputs(self._stack), **options)
        if rule.reads == "inputs":
            inputs = self.source.inputs(self._stack, threshold=options["threshold"])
            return rule.find(inputs, **options)
        spikes = self.source.spikes(self._stack, **options)
        return rule.find(spikes, threshold=options["threshold"])

    @cached_property
    def _stack(self) -> "Stack":
        from robustness.anatomy.stacks import Anatomy

        return Anatomy.from_dict(self.anatomy_record).stack

    @cached_property
    def _parameters(self) -> "SiteParameters":
        from robustness.anatomy.parameters import site_parameters

        return site_parameters(self._stack, self.checkpoint.tensor)
