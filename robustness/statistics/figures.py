"""What a verdict rests on, in numbers: typed parts that travel in JSON and are read by reports."""

import math
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    WithJsonSchema,
)


def _from_json(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf", "nan") else value


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


Number = Annotated[
    float,
    BeforeValidator(_from_json),
    PlainSerializer(_to_json, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["inf", "-inf", "nan"]}]}),
]
"""A number; in JSON, which has no word for them, infinities and NaN are text."""

Interval = tuple[Number, Number]

NEAR = 0.1
"""Share of a mean's distance from its threshold that the error of reduced precision may take."""


class Figures(BaseModel):
    """Numbers that belong together."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HistoryEntry(Figures):
    """A decision on the way to a verdict.

    Attributes:
        seen: text blocks or examples it rests on, over all passes.
        measured: what the verdict's number was then.
        interval: of that number; ``None`` where it is exact or nothing is excluded yet.
        draws: random draws it rests on, where draws are what is compared.
    """

    seen: int
    measured: Number
    interval: Interval | None = None
    draws: int | None = None


class TextFigures(Figures):
    """Perplexities that do not depend on the tokenizer, and the text that they are of."""

    word_perplexity: Number | None
    byte_perplexity: Number | None
    bits_per_byte: Number | None
    words: int | None
    utf8_bytes: int


class IntactFigures(Figures):
    """The intact model on the text blocks that were measured.

    Attributes:
        perplexity: ``None`` where the scoring measures a loss that is none.
        nats_per_token: mean negative log-likelihood, or loss, of a scored token.
        chance_nats_per_token: the same of a guess that reads no text.
        text: figures that do not depend on the tokenizer, where they are known.
        text_blocks: how many were measured.
        tokens: how many of their tokens were scored.
    """

    perplexity: Number | None
    nats_per_token: Number
    chance_nats_per_token: Number
    text: TextFigures | None = None
    text_blocks: int
    tokens: int


class PrecisionCost(Figures):
    """What reduced precision costs one mean, in nats per text block.

    Attributes:
        slack_nats: by how much the interval was widened.
        distance_nats: how far the mean lies from the threshold.
    """

    slack_nats: Number
    distance_nats: Number

    @property
    def needs_float32(self) -> bool:
        """Whether the possible error is no small part of the distance."""
        return self.slack_nats > NEAR * self.distance_nats or math.isinf(self.slack_nats)


class PrecisionFigures(Figures):
    """The precision of the text blocks behind the first ones, and what the reduced one costs."""

    dtype: str
    costs: tuple[PrecisionCost, ...]

    @property
    def slack_nats(self) -> tuple[float, ...]:
        """By how much each mean's interval has to be widened, per text block."""
        return tuple(0.0 if self.dtype == "float32" else cost.slack_nats for cost in self.costs)


class DrawFigure(Figures):
    """One random draw of dimensions and what its ablation does."""

    dims: tuple[int, ...]
    measured: Number


class DrawFigures(Figures):
    """Random draws.

    Attributes:
        draws: how many.
        mean: what the ablation does on average.
        quantiles: by level, as text.
        worst: the draws that do most harm, the worst first.
        by_draw: what every draw does, in their order; empty where a draw is a single example.
    """

    draws: int
    mean: Number
    quantiles: dict[str, Number] = {}
    worst: tuple[DrawFigure, ...] = ()
    by_draw: tuple[Number, ...] = ()


class FactorFigures(Figures):
    """The two means whose ratio is a factor: nats per text block, or drops of a score."""

    joint: Number
    control: Number


class LayerFigure(Figures):
    """The degradation by an ablation in one layer only."""

    layer: int
    ratio: Number
    interval: Interval | None = None


class Int8Figures(Figures):
    """Simulated int8, all of it and with the outlier dimensions left in float."""

    ratio: Number
    ratio_without_outliers: Number
    spared_dims: tuple[int, ...]
    share_of_outliers: Number | None


class TaskFigures(Figures):
    """A downstream task: the intact model's score and the other one's on the same examples.

    Attributes:
        name: of the task's data.
        metric: the score.
        intact_score: of the intact model.
        ablated_score: of the other one; the intact one's, too, where nothing is ablated.
        examples: measured, over all passes.
        task_examples: in the task.
    """

    name: str
    metric: str
    intact_score: Number
    ablated_score: Number
    examples: int
    task_examples: int


class ReferenceFigures(Figures):
    """A number now and in the reference on the same text blocks: perplexity, or nats per token.

    ``text_blocks`` are those that the reference has.
    """

    text_blocks: int
    then: Number
    now: Number


class DivergenceFigures(Figures):
    """KL divergences per scored position, in nats.

    Attributes:
        p99_nats: 99 % of the positions lie below.
        lost_nats: by how much the mean may be too small, since unlikely tokens count as one.
    """

    p99_nats: Number
    lost_nats: Number


class OutlierChanges(Figures):
    """Outlier dimensions that differ from the reference's."""

    appeared: tuple[int, ...]
    vanished: tuple[int, ...]
    other_layers: tuple[int, ...]
