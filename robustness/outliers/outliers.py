"""What a rule finds in a checkpoint, as plain data. The rules are in ``rules``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """One outlier dimension.

    Attributes:
        dim: its index in the hidden vector.
        layers: the layers (0-based) in which the rule flags it.
        z_scale: its distance from the layer's mean scale in standard deviations, per such layer;
            ``None`` where the rule does not look at scales.
        z_bias: likewise for the bias; ``None`` also where the site has no bias.
        statistics: what else the rule goes by, by its readable name: a value per such layer.
        details: what the rule knows of it beyond that, in plain JSON types.
    """

    dim: int
    layers: tuple[int, ...]
    z_scale: tuple[float, ...] | None = None
    z_bias: tuple[float, ...] | None = None
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "dim": self.dim,
            "layers": list(self.layers),
            "z_scale": None if self.z_scale is None else list(self.z_scale),
            "z_bias": None if self.z_bias is None else list(self.z_bias),
            "statistics": {name: list(values) for name, values in self.statistics.items()},
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Outlier":
        """The inverse of :meth:`to_dict`."""
        scale, bias = data["z_scale"], data["z_bias"]
        return cls(
            dim=data["dim"],
            layers=tuple(data["layers"]),
            z_scale=None if scale is None else tuple(scale),
            z_bias=None if bias is None else tuple(bias),
            statistics={name: tuple(values) for name, values in data["statistics"].items()},
            details=data["details"],
        )


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What a rule found in one checkpoint.

    Attributes:
        rule: the rule's name, a colon, and what it asks for with its settings, readable.
        outliers: ascending by dimension.
        by_chance: dimensions the rule would flag if what it looks at were independent and Gaussian;
            ``None`` where it compares with fixed numbers, so that no such figure is defined.
        magnitude: all dimensions that are not outliers, the most extreme in any one layer first.
        details: what the rule found out about the model as a whole, in plain JSON types.
    """

    rule: str
    outliers: tuple[Outlier, ...]
    by_chance: float | None
    magnitude: tuple[int, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The rule's name alone."""
        return self.rule.partition(":")[0]

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions, ascending."""
        return tuple(outlier.dim for outlier in self.outliers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "rule": self.rule,
            "outliers": [outlier.to_dict() for outlier in self.outliers],
            "by_chance": self.by_chance,
            "magnitude": list(self.magnitude),
            "details": dict(self.details),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Detection":
        """The inverse of :meth:`to_dict`."""
        return cls(
            rule=data["rule"],
            outliers=tuple(map(Outlier.from_dict, data["outliers"])),
            by_chance=data["by_chance"],
            magnitude=tuple(data["magnitude"]),
            details=data["details"],
        )
