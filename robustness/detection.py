"""Anatomy and outlier dimensions of a checkpoint, found before a run from its weights alone."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness.ablation import Ablation
from robustness.errors import UnsupportedSite
from robustness.measure import library_versions
from robustness.outliers import Detection
from robustness.policy import Settings
from robustness.store import Record, Store

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustness.checkpoint import Checkpoint
    from robustness.stacks import Anatomy

EXAMINATION = 2
"""Version of what an examination records; part of its identity in the store."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is known of a checkpoint without running it.

    Attributes:
        anatomy_record: the anatomy in plain JSON types.
        detection: what the rule found.
        stack: the vetted stack's role: ``only``, ``encoder`` or ``decoder``.
        sites: where its features can be ablated.
        layers: layers of that stack.
        hidden_size: D.
        distinct_sites: different modules among the layers' output sites (1 when layers share).
    """

    anatomy_record: Mapping[str, Any]
    detection: Detection
    layers: int
    hidden_size: int
    distinct_sites: int
    stack: str = "only"
    sites: tuple[str, ...] = ("output", "residual")

    @cached_property
    def anatomy(self) -> "Anatomy":
        """Where the model can be ablated."""
        from robustness.stacks import Anatomy

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
        """Plain JSON types."""
        return {
            "anatomy": dict(self.anatomy_record),
            "detection": self.detection.to_dict(),
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "distinct_sites": self.distinct_sites,
            "stack": self.stack,
            "sites": list(self.sites),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Examination":
        """The inverse of :meth:`to_dict`."""
        return cls(
            anatomy_record=data["anatomy"],
            detection=Detection.from_dict(data["detection"]),
            layers=data["layers"],
            hidden_size=data["hidden_size"],
            distinct_sites=data["distinct_sites"],
            stack=data["stack"],
            sites=tuple(data["sites"]),
        )


def examine(checkpoint: "Checkpoint", settings: Settings, *, store_root: Path) -> Examination:
    """Trace a weightless copy of the model and apply the rule to its output sites' parameters.

    Raises:
        UnsupportedArchitecture, UnsupportedSite: if tracing finds no layers or no output site.
        RuleError: if the rule cannot say anything about this model.
    """
    store = Store(
        store_root,
        {
            "examination": EXAMINATION,
            "config": checkpoint.config_hash,
            "weights": checkpoint.weights_hash,
            "architecture": checkpoint.architecture,
            "versions": library_versions(),
        },
    )
    key = {
        "stack": settings.stack,
        "rule": settings.rule,
        "settings": getattr(settings.rules, settings.rule).model_dump(),
    }
    (record,) = store.obtain([key], lambda _: _examine(checkpoint, settings))
    return Examination.from_dict(record)


def _examine(checkpoint: "Checkpoint", settings: Settings) -> Record:
    from robustness import outliers
    from robustness.anatomy import distinct_sites, trace_anatomy
    from robustness.parameters import site_parameters

    skeleton = checkpoint.skeleton()
    tokens = few_tokens(skeleton, checkpoint.vocab_size)
    anatomy = trace_anatomy(skeleton, tokens, stack=settings.stack)
    parameters = site_parameters(anatomy.stack, checkpoint.tensor)
    rule = getattr(outliers, settings.rule)
    options = getattr(settings.rules, settings.rule).model_dump()
    checkpoint.require_unchanged()
    return Examination(
        anatomy_record=anatomy.to_dict(),
        detection=rule(parameters.scale, parameters.bias, **options),
        stack=anatomy.stack.role,
        sites=anatomy.stack.available(),
        layers=len(anatomy.stack.sites),
        hidden_size=anatomy.hidden_size,
        distinct_sites=distinct_sites(anatomy.stack),
    ).to_dict()


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
