"""What the rules on weights say of a checkpoint, read from a few tensors in its files.

No model is built, no text is read, and no tokenizer is needed: `site_weights` finds
the output sites and remembers what stands there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from robustness.anatomy.site_weights import SiteWeights, site_weights
from robustness.anatomy.stacks import READING_NORMS, SiteKind, StackChoice
from robustness.checkpoint.reading import PLAIN, ReadOptions
from robustness.errors import RuleError
from robustness.outliers.outliers import Detection
from robustness.outliers.rules import RULES
from robustness.outliers.rules.settings import Rules
from robustness.outliers.rules.weights import z_scores
from robustness.store.context import Context

SCHEMA = 1
"""Of what a scan is in JSON; part of the public interface."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rule, with its variant where it has several, says of a checkpoint.

    ``detection`` is ``None`` where the rule cannot say anything, for a ``reason``.
    """

    rule: str
    detection: Detection | None
    reason: str = ""

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions, ascending."""
        return () if self.detection is None else self.detection.dims

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        detection = self.detection
        return {
            "rule": self.rule,
            "description": None if detection is None else detection.rule,
            "dims": list(self.dims),
            "layers": {}
            if detection is None
            else {str(o.dim): list(o.layers) for o in detection.outliers},
            "expected_by_chance": None if detection is None else detection.by_chance,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One checkpoint, scanned.

    Attributes:
        label: its short name, unique among the checkpoints scanned together.
        reference: as the user named it.
        revision: of a Hub checkpoint, its commit.
        notes: on how it was resolved.
        architecture: name of the transformers class.
        stack: role of the stack: ``only``, ``encoder`` or ``decoder``.
        kind: what the rules read, see :class:`robustness.anatomy.stacks.Site`.
        distinct_sites: different modules among them.
        findings: one for each rule on weights, in the order of the rules.
        scale, bias: of every feature in every layer, shape (L, D); ``None`` where there is none.
        z_scale, z_bias: their distances from the layer's mean in unbiased std.
    """

    label: str
    reference: str
    revision: str | None
    notes: tuple[str, ...]
    architecture: str
    stack: str
    kind: SiteKind
    distinct_sites: int
    findings: tuple[Finding, ...]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64] | None
    z_scale: NDArray[np.float64]
    z_bias: NDArray[np.float64] | None

    @property
    def layers(self) -> int:
        """L."""
        return int(self.z_scale.shape[0])

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.z_scale.shape[1])

    @property
    def shape(self) -> tuple[str, str, str, int, int, bool]:
        """What two checkpoints have in common whose dimensions can be held against each other.

        That they can does not mean that the same index is the same feature: it is only where one
        checkpoint was made from the other, or both from a third.
        """
        has_bias = self.z_bias is not None
        return self.architecture, self.stack, self.kind, self.layers, self.hidden_size, has_bias

    @property
    def dims(self) -> tuple[int, ...]:
        """Every dimension that some rule found, ascending."""
        return tuple(sorted({dim for finding in self.findings for dim in finding.dims}))

    def rules_of(self, dim: int) -> tuple[str, ...]:
        """The rules that found a dimension."""
        return tuple(finding.rule for finding in self.findings if dim in finding.dims)

    def scale_of(self, dim: int) -> list[float]:
        """A dimension's z of the scale, per layer."""
        return [float(z) for z in self.z_scale[:, dim]]

    def bias_of(self, dim: int) -> list[float] | None:
        """A dimension's z of the bias, per layer."""
        return None if self.z_bias is None else [float(z) for z in self.z_bias[:, dim]]

    def to_dict(self, dims: Iterable[int] | None = None) -> dict[str, Any]:
        """Plain JSON types; of some dimensions the z, by default of those that some rule found."""
        return {
            "label": self.label,
            "reference": self.reference,
            "revision": self.revision,
            "notes": list(self.notes),
            "architecture": self.architecture,
            "stack": self.stack,
            "site": self.kind,
            "distinct_sites": self.distinct_sites,
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "rules": [finding.to_dict() for finding in self.findings],
            "dimensions": [
                {
                    "dim": dim,
                    "rules": list(self.rules_of(dim)),
                    "z_scale": self.scale_of(dim),
                    "z_bias": self.bias_of(dim),
                }
                for dim in (self.dims if dims is None else dims)
            ],
        }


def scan(
    reference: str,
    *,
    label: str,
    rules: Rules | None = None,
    stack: StackChoice = "auto",
    context: Context,
    options: ReadOptions = PLAIN,
) -> Scan:
    """Apply every rule on weights to a checkpoint, called ``label``.

    Raises:
        CheckpointError: it cannot be found or reached, is damaged, or lacks weights.
        UnsupportedArchitecture, UnsupportedSite: it has no layers, or no output sites.
        RuleError: its scales or biases are no numbers, so that no rule can compare them.
    """
    weights = site_weights(reference, stack=stack, context=context, options=options)
    scale, bias = weights.parameters.scale, weights.parameters.bias
    findings = tuple(_findings(weights, rules or Rules()))
    if all(finding.detection is None for finding in findings):
        raise RuleError(f"{reference}: {findings[0].reason}")
    return Scan(
        label=label,
        reference=reference,
        revision=weights.revision,
        notes=(*weights.notes, *([READING_NORMS] if weights.kind == "reader" else [])),
        architecture=weights.architecture,
        stack=weights.stack,
        kind=weights.kind,
        distinct_sites=weights.parameters.distinct_sites,
        findings=findings,
        scale=scale,
        bias=bias,
        z_scale=z_scores(scale),
        z_bias=None if bias is None else z_scores(bias),
    )


def comparable(scans: Sequence[Scan]) -> dict[str, tuple[int, ...]]:
    """By label, the dimensions to show: also those found in others of the same shape only."""
    shared: dict[tuple[str, str, str, int, int, bool], set[int]] = {}
    for one in scans:
        shared.setdefault(one.shape, set()).update(one.dims)
    return {one.label: tuple(sorted(shared[one.shape])) for one in scans}


def _findings(weights: SiteWeights, rules: Rules) -> Iterator[Finding]:
    parameters = weights.parameters
    for name, options in _variants(rules):
        rule = RULES[name.partition(" ")[0]]
        try:
            detection = rule.find(
                parameters.scale, parameters.bias, n_distinct=parameters.distinct_sites, **options
            )
        except RuleError as error:
            yield Finding(rule=name, detection=None, reason=str(error))
        else:
            yield Finding(rule=name, detection=detection)


def _variants(rules: Rules) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rules on weights in all their variants, with their settings."""
    for name, rule in RULES.items():
        if rule.needs_model:
            continue
        settings = getattr(rules, name.replace("-", "_"))
        field = type(settings).model_fields.get("variant")
        for variant in () if field is None else get_args(field.annotation):
            yield f"{name} ({variant})", {**rules.of(name), "variant": variant}
        if field is None:
            yield name, rules.of(name)
