"""The parts of a checkpoint's result: examples, outlier dimensions, sites, reference and task."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, JsonValue

from robustness.runtime.plain import encodable
from robustness.statistics.figures import Figures, Number


def _encodable(value: Any) -> Any:
    """Return text that UTF-8 can hold: names of files can have bytes in them that are no text."""
    return encodable(value, "utf-8") if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_encodable)]
Matrix = tuple[tuple[Number, ...], ...]
"""A row per layer and a column per dimension."""


class Guess(Figures):
    """What a model says first for a token, and how probable it finds that."""

    text: Text
    p: Number


class Piece(Figures):
    """A piece of an example.

    Attributes:
        text: what stands there.
        target: whether the models were asked for it; only then there is more.
        intact: what the intact model says.
        ablated: what the ablated model says.
        intact_p_target: how probable the intact model finds the piece itself.
        ablated_p_target: the same of the ablated model.
    """

    text: Text
    target: bool = False
    intact: Guess | None = None
    ablated: Guess | None = None
    intact_p_target: Number | None = None
    ablated_p_target: Number | None = None


class Example(Figures):
    """A window of the corpus with what the intact and the ablated model make of it."""

    text_block: int
    kind: Literal["masked", "continued"]
    dims: tuple[int, ...]
    seed: int
    pieces: tuple[Piece, ...]


class OutlierDimension(Figures):
    """A dimension that a rule flags; see :class:`robustness.outliers.outliers.Outlier`."""

    dim: int
    layers: tuple[int, ...]
    z_scale: tuple[Number, ...] | None
    z_bias: tuple[Number, ...] | None
    statistics: dict[str, tuple[Number, ...]]
    details: dict[str, JsonValue]


class RuleResult(Figures):
    """What one rule found; the first of a checkpoint decides what is ablated."""

    rule: Text
    description: Text
    dims: tuple[int, ...]
    expected_by_chance: Number | None
    outliers: tuple[OutlierDimension, ...]
    details: dict[str, JsonValue]


class Agreement(Figures):
    """The rules that found a dimension."""

    dim: int
    rules: tuple[Text, ...]


class Sites(Figures):
    """Parameters of the vetted site in every layer, and their z-scores.

    Attributes:
        site: what the rows are of.
        dims: the dimensions of the columns, ascending; ``None`` if there is one for each.
        scale: of every layer.
        bias: likewise; ``None`` where a site has none.
        scale_z: how far it lies from the layer's mean; ``None`` where values are not finite.
        bias_z: likewise.
    """

    site: str
    dims: tuple[int, ...] | None
    scale: Matrix
    bias: Matrix | None
    scale_z: Matrix | None
    bias_z: Matrix | None


class ComparedWith(Figures):
    """What a checkpoint was compared with: another one, or a saved profile.

    Attributes:
        label: its short name.
        reference: as it was named.
        dims: its outlier dimensions.
        saved: whether it is a saved profile. Only of that it is known:
        text_blocks: how many it holds.
        perplexity: on these.
        failed: the checks that it did not pass.
    """

    label: Text
    reference: Text
    revision: Text
    dims: tuple[int, ...]
    saved: bool
    text_blocks: int | None = None
    perplexity: Number | None = None
    failed: tuple[Text, ...] = ()


class TaskResult(Figures):
    """The downstream task, and the intact model's score on the examples that were measured.

    Attributes:
        name: of the data.
        reference: to the data, as the user gave it.
        kind: what the model is asked.
        metric: the score.
        architecture: of the model that answers.
        examples: in the task.
        score: of the intact model, on as many examples as any check saw; ``None`` without one.
        score_examples: how many those are.
    """

    name: Text
    reference: Text
    kind: str
    metric: str
    architecture: Text
    examples: int
    score: Number | None
    score_examples: int
