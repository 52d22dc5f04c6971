"""What a rule finds in a checkpoint, as plain data. The rules are in ``rules``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustness.store.documents import PlainRecord


@dataclass(frozen=True, kw_only=True)
class Outlier(PlainRecord):
    """One outlier dimension.

    Attributes:
        dim: its index in the hidden vector.
        layers: the layers (0-based) in which the rule flags it.
        z_scale: its distance from the layer's mean scale in standard deviations, per such layer.
        z_bias: likewise for the bias; ``None`` where the rule, or the site, has none.
        statistics: what else the rule goes by, by its readable name: a value per such layer.
        details: what the rule knows of it beyond that, in plain JSON types.
    """

    dim: int
    layers: tuple[int, ...]
    z_scale: tuple[float, ...] | None = None
    z_bias: tuple[float, ...] | None = None
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Detection(PlainRecord):
    """What a rule found in one checkpoint.

    Attributes:
        rule: the rule's name, a colon, and what it asks for with its settings, readable.
        outliers: ascending by dimension.
        by_chance: dimensions the rule would flag if what it looks at were independent and Gaussian;
            ``None`` where it compares with fixed numbers.
        magnitude: all dimensions that are not outliers, the most extreme in any one layer first.
        details: what the rule found out about the model as a whole, in plain JSON types.
        not_finite: why it can say nothing: what it compares is NaN or infinite.
    """

    rule: str
    outliers: tuple[Outlier, ...]
    by_chance: float | None
    magnitude: tuple[int, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    not_finite: str | None = None

    @property
    def name(self) -> str:
        """The rule's name alone."""
        return self.rule.partition(":")[0]

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions, ascending."""
        return tuple(outlier.dim for outlier in self.outliers)
