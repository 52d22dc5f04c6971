"""Anatomy and outlier dimensions of a checkpoint, found before a run.

Weight rules read a few tensors from the files; only rules on activations load the model and read a
few text blocks with it.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness.ablation.ablation import Ablation
from robustness.errors import CheckpointError, UnsupportedSite
from robustness.outliers.activation_source import ActivationSource
from robustness.outliers.outliers import Detection
from robustness.outliers.rules import RULES, Rule
from robustness.outliers.site_values import SiteValues, site_values
from robustness.policy.policy import Settings, StackChoice
from robustness.runtime.libraries import library_versions
from robustness.store.store import Record, Store

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustness.anatomy.parameters import SiteParameters
    from robustness.anatomy.stacks import Anatomy, Stack
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.corpus.corpus import Corpus
    from robustness.runtime.threads import Threads

MODEL_PROFILE = 5
"""Version of what an model_profile records; part of its identity in the store."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """What is known of a checkpoint before it is measured.

    Attributes:
        anatomy_record: the anatomy in plain JSON types.
        detection: what the primary rule found: its dimensions are ablated.
        stack: the vetted stack's role: ``only``, ``encoder`` or ``decoder``.
        sites: where its features can be ablated.
        layers: layers of that stack.
        hidden_size: D.
        distinct_sites: different modules among the layers' output sites (1 when layers share).
        compared: what the other rules found that were asked for, in their order.
        values: the parameters at the output sites, for reports; in the process that asked for
            them alone: too much to hand on.
    """

    anatomy_record: Mapping[str, Any]
    detection: Detection
    layers: int
    hidden_size: int
    distinct_sites: int
    stack: str = "only"
    sites: tuple[str, ...] = ("output", "residual")
    compared: tuple[Detection, ...] = ()
    values: SiteValues | None = field(default=None, compare=False, repr=False)

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
        """Refuse an ablation that the model has no place for.

        Raises:
            UnsupportedSite: it has no such site, or no such layer.
        """
        if ablation.site not in self.sites:
            self.anatomy.stack.at(ablation.site)  # says why
        beyond = [layer for layer in ablation.layers or () if layer >= self.layers]
        if beyond:
            raise UnsupportedSite(
                f"There is no layer {beyond[0]}: the model's layers are numbered from 0 to "
                f"{self.layers - 1}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without :attr:`values`."""
        return {
            "anatomy": dict(self.anatomy_record),
            "detection": self.detection.to_dict(),
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "distinct_sites": self.distinct_sites,
            "stack": self.stack,
            "compared": [detection.to_dict() for detection in self.compared],
            "sites": list(self.sites),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ModelProfile":
        """The inverse of :meth:`to_dict`, but for :attr:`values`."""
        return cls(
            anatomy_record=data["anatomy"],
            detection=Detection.from_dict(data["detection"]),
            layers=data["layers"],
            hidden_size=data["hidden_size"],
            distinct_sites=data["distinct_sites"],
            stack=data["stack"],
            compared=tuple(map(Detection.from_dict, data["compared"])),
            sites=tuple(data["sites"]),
        )


def profile_model(
    checkpoint: "Checkpoint",
    settings: Settings,
    *,
    store_root: Path,
    newer_than: float | None = None,
    corpus: "Callable[[], Corpus] | None" = None,
    threads: "Threads | None" = None,
    progress: Progress = lambda _: None,
    values: bool = False,
) -> ModelProfile:
    """Trace a weightless copy of the model and apply the policy's rules.

    Args:
        checkpoint: resolved.
        settings: the policy's settings for it.
        store_root: folder of the store: what was found once is not looked for again.
        newer_than: seconds since the epoch; what the store has from before is not used.
        corpus: the text, for rules on activations; read as the settings say where not given.
        threads: a share of the processor's cores; ``None`` leaves the library's choice.
        progress: told about every text block that a rule on activations reads.
        values: whether to keep the parameters at the output sites for a report, too.

    Raises:
        UnsupportedArchitecture, UnsupportedSite: if tracing finds no layers or no output site, or
            a rule needs another kind of site.
        RuleError: if a rule cannot say anything about this model.
    """
    store = _store(checkpoint, store_root, newer_than)
    found = _traced(store, checkpoint, settings.stack)
    source = ActivationSource(
        checkpoint=checkpoint,
        settings=settings,
        corpus=corpus,
        threads=threads,
        progress=progress,
    )

    def key(rule: str) -> dict[str, Any]:
        known = {"rule": rule, "settings": settings.rules.of(rule), "stack": settings.stack}
        return {**known, "text": source.identity} if RULES[rule].needs_model else known

    @cache
    def stack() -> "Stack":
        from robustness.anatomy.stacks import Anatomy

        return Anatomy.from_dict(found["anatomy"]).stack

    @cache
    def parameters() -> "SiteParameters":
        from robustness.anatomy.parameters import site_parameters

        return site_parameters(stack(), checkpoint.tensor)

    def detect(key: Mapping[str, Any]) -> Record:
        rule, options = RULES[key["rule"]], key["settings"]
        detection = _detect(rule, options, stack(), parameters, source)
        checkpoint.require_unchanged()
        return detection.to_dict()

    def evaluate(key: Mapping[str, Any]) -> Record:
        record = _values(stack(), parameters, keep=key["values"])
        checkpoint.require_unchanged()
        return record

    records = store.obtain(map(key, settings.rule_names), detect)
    primary, *compared = map(Detection.from_dict, records)
    kept: Record = {"values": None}
    if values:
        dims = sorted({dim for detection in (primary, *compared) for dim in detection.dims})
        (kept,) = store.obtain([{"values": dims, "stack": settings.stack}], evaluate)
    return ModelProfile(
        anatomy_record=found["anatomy"],
        detection=primary,
        stack=found["stack"],
        layers=found["layers"],
        hidden_size=found["hidden_size"],
        distinct_sites=found["distinct_sites"],
        sites=tuple(found["sites"]),
        compared=tuple(compared),
        values=kept["values"] and SiteValues.from_dict(kept["values"]),
    )


def traced(
    checkpoint: "Checkpoint",
    stack: StackChoice,
    *,
    store_root: Path,
    newer_than: float | None = None,
) -> Record:
    """The anatomy of a checkpoint alone, in plain JSON types under ``anatomy``.

    Raises:
        UnsupportedArchitecture, UnsupportedSite: if tracing finds no layers or no output site.
    """
    return _traced(_store(checkpoint, store_root, newer_than), checkpoint, stack)


def _store(checkpoint: "Checkpoint", root: Path, newer_than: float | None) -> Store:
    context = {
        "model_profile": MODEL_PROFILE,
        "config": checkpoint.config_hash,
        "weights": checkpoint.weights_hash,
        "architecture": checkpoint.architecture,
        "versions": library_versions(),
    }
    return Store(root, context, newer_than=newer_than)


def _traced(store: Store, checkpoint: "Checkpoint", stack: StackChoice) -> Record:
    key = {"anatomy": 1, "stack": stack}
    (found,) = store.obtain([key], lambda _: _trace(checkpoint, stack))
    return found


def _trace(checkpoint: "Checkpoint", stack: StackChoice) -> Record:
    from robustness.anatomy.anatomy import distinct_sites, trace_anatomy

    skeleton = checkpoint.skeleton()
    tokens = few_tokens(skeleton, checkpoint.vocab_size)
    anatomy = trace_anatomy(skeleton, tokens, stack=stack)
    record = {
        "anatomy": anatomy.to_dict(),
        "stack": anatomy.stack.role,
        "layers": anatomy.stack.n_layers,
        "hidden_size": anatomy.hidden_size,
        "distinct_sites": distinct_sites(anatomy.stack),
        "sites": list(anatomy.stack.available()),
    }
    checkpoint.require_unchanged()
    return record


def _detect(
    rule: Rule,
    options: Mapping[str, Any],
    stack: "Stack",
    parameters: "Callable[[], SiteParameters]",
    source: ActivationSource,
) -> Detection:
    """Apply one rule to what it reads."""
    if rule.reads == "parameters":
        read = parameters()
        return rule.find(read.scale, read.bias, n_distinct=read.distinct_sites, **options)
    if rule.reads == "outputs":
        return rule.find(source.outputs(stack), **options)
    if rule.reads == "inputs":
        return rule.find(source.inputs(stack, threshold=options["threshold"]), **options)
    return rule.find(source.spikes(stack, **options), threshold=options["threshold"])


def _values(
    stack: "Stack", parameters: "Callable[[], SiteParameters]", *, keep: list[int]
) -> Record:
    """The parameters at the output sites; none where a rule on activations alone can be asked."""
    try:
        kinds = [site.kind for site in stack.sites]
        return {"values": site_values(parameters(), kinds=kinds, keep=keep).to_dict()}
    except (UnsupportedSite, CheckpointError):  # no output sites, or quantised weights there
        return {"values": None}


def few_tokens(model: "nn.Module", vocab_size: int) -> dict[str, "Tensor"]:
    """Two rows of ordinary tokens, eight for each stack that reads tokens of its own.

    Their ids are from the middle, since specials sit at the ends.
    """
    import torch

    ids = (vocab_size // 2 + torch.arange(32).reshape(4, 8)) % vocab_size
    inputs = {"input_ids": ids[:2], "attention_mask": torch.ones_like(ids[:2])}
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = ids[2:, :6]  # other lengths tell the stacks' positions apart
    return inputs
