"""Anatomy and outlier dimensions of a checkpoint, found before a run from its weights alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness.measure import library_versions
from robustness.outliers import Detection
from robustness.policy import Settings
from robustness.store import Record, Store

if TYPE_CHECKING:
    from torch import Tensor

    from robustness.anatomy import Anatomy
    from robustness.checkpoint import Checkpoint

EXAMINATION = 1
"""Version of what an examination records; part of its identity in the store."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is known of a checkpoint without running it.

    Attributes:
        anatomy_record: the anatomy in plain JSON types.
        detection: what the rule found.
        layers: layers of the stack.
        hidden_size: D.
        distinct_sites: different modules among the layers' output sites (1 when layers share).
    """

    anatomy_record: Mapping[str, Any]
    detection: Detection
    layers: int
    hidden_size: int
    distinct_sites: int

    @cached_property
    def anatomy(self) -> "Anatomy":
        """Where the model can be ablated."""
        from robustness.anatomy import Anatomy

        return Anatomy.from_dict(self.anatomy_record)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "anatomy": dict(self.anatomy_record),
            "detection": self.detection.to_dict(),
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "distinct_sites": self.distinct_sites,
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
        )


def examine(
    checkpoint: "Checkpoint",
    settings: Settings,
    *,
    store_root: Path,
    newer_than: float | None = None,
) -> Examination:
    """Trace a weightless copy of the model and apply the rule to its output sites' parameters.

    Args:
        checkpoint: whose weights are read.
        settings: the policy's rule.
        store_root: folder of the store.
        newer_than: seconds since the epoch; what the store has from before is not used.

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
        newer_than=newer_than,
    )
    key = {"rule": settings.rule, "settings": getattr(settings.rules, settings.rule).model_dump()}
    (record,) = store.obtain([key], lambda _: _examine(checkpoint, settings))
    return Examination.from_dict(record)


def _examine(checkpoint: "Checkpoint", settings: Settings) -> Record:
    from robustness import outliers
    from robustness.anatomy import distinct_sites, trace_anatomy
    from robustness.parameters import site_parameters

    anatomy = trace_anatomy(checkpoint.skeleton(), _few_tokens(checkpoint.vocab_size))
    parameters = site_parameters(anatomy.stack, checkpoint.tensor)
    rule = getattr(outliers, settings.rule)
    options = getattr(settings.rules, settings.rule).model_dump()
    checkpoint.require_unchanged()
    return Examination(
        anatomy_record=anatomy.to_dict(),
        detection=rule(parameters.scale, parameters.bias, **options),
        layers=len(anatomy.stack.sites),
        hidden_size=anatomy.hidden_size,
        distinct_sites=distinct_sites(anatomy.stack),
    ).to_dict()


def _few_tokens(vocab_size: int) -> dict[str, "Tensor"]:
    """Two rows of eight ordinary tokens: ids from the middle, since specials sit at the ends."""
    import torch

    ids = (vocab_size // 2 + torch.arange(16).reshape(2, 8)) % vocab_size
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
