"""A JSON report read back as typed facts: what pictures are drawn of, no model needed.

Reports of older versions lack what later ones added; every such field is optional here.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from robustness.errors import ReportError
from robustness.report.facts import SCHEMA, is_accepted
from robustness.store.documents import first_fault, read_document, shortened


def _number(value: Any) -> Any:
    """A number, also one that JSON has no word for; text that is none is refused by pydantic."""
    return float(value) if value in ("inf", "-inf", "nan") else value


Number = Annotated[float, BeforeValidator(_number)]
Interval = tuple[Number, Number]
Matrix = tuple[tuple[Number, ...], ...]
"""Row = layer, column = dimension."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Look(_Facts):
    """A decision after some text blocks."""

    text_blocks: int
    ratio: Number
    interval: Interval | None = None


class LayerRatio(_Facts):
    """The degradation by an ablation in one layer only."""

    layer: int
    ratio: Number
    interval: Interval | None = None


class Details(_Facts):
    """What is shown of a check's details."""

    draws: int | None = None
    draw_ratios: tuple[Number, ...] = ()
    mean_ratio: Number | None = None
    layer_profile: tuple[LayerRatio, ...] = ()
    blind_share: float | None = None
    baseline_perplexity: Number | None = None
    intact_perplexity: Number | None = None
    baseline_ratio: Number | None = None
    ratio_now: Number | None = None
    task: str | None = None
    task_draws: int | None = None
    appeared: tuple[int, ...] = ()
    vanished: tuple[int, ...] = ()


class Expectation(_Facts):
    """A failure that the policy expects."""

    expired: bool
    expires: str
    reason: str


class CheckResult(_Facts):
    """One decided check."""

    id: str
    check: str
    verdict: str
    dims: tuple[int, ...]
    ratio: Number | None
    interval: Interval | None
    threshold: Number | None
    passes: str | None
    text_blocks: int
    tokens: int
    exact: bool
    statement: str
    reason: str
    expected_failure: Expectation | None = None
    details: Details = Details()
    course: tuple[Look, ...] | None = None

    @property
    def name(self) -> str:
        """``ablation degrades``."""
        return self.check.removeprefix("test_").replace("_", " ")

    @property
    def unit(self) -> str:
        """Of its number of text blocks: those of a task are examples."""
        return "text blocks" if self.details.task is None else "examples"

    @property
    def is_drop(self) -> bool:
        """Whether its ratio is the drop of a task's score, and no ratio."""
        return self.details.task is not None and self.check != "test_outliers_matter_more_for_task"

    @property
    def accepted(self) -> bool:
        """Whether it lets the run pass."""
        return is_accepted(self.model_dump(include={"verdict", "expected_failure"}))


class OutlierDimension(_Facts):
    """A dimension that a rule flags."""

    dim: int
    layers: tuple[int, ...]
    z_scale: tuple[Number, ...] | None = None
    z_bias: tuple[Number, ...] | None = None
    statistics: dict[str, tuple[Number, ...]] = Field(default_factory=dict)


class RuleResult(_Facts):
    """What one rule found."""

    rule: str
    description: str
    dims: tuple[int, ...]
    expected_by_chance: Number | None = None


class Agreement(_Facts):
    """The rules that found a dimension."""

    dim: int
    rules: tuple[str, ...]


class Sites(_Facts):
    """Parameters of the vetted site in every layer, and their z-scores.

    ``dims`` are the dimensions of the columns: the most extreme ones; ``None`` where all are there.
    """

    scale: Matrix | None = None
    bias: Matrix | None = None
    scale_z: Matrix | None = None
    bias_z: Matrix | None = None
    site: str = "site"
    dims: tuple[int, ...] | None = None


class Guess(_Facts):
    """What a model says first for a token, and how probable it finds it."""

    text: str
    p: Number


class Piece(_Facts):
    """A piece of an example; a target is a token that the models were asked for."""

    text: str
    target: bool = False
    intact: Guess | None = None
    ablated: Guess | None = None
    intact_p_target: Number | None = None
    ablated_p_target: Number | None = None


class Example(_Facts):
    """A window of the corpus with what the intact and the ablated model make of it."""

    text_block: int
    kind: str
    dims: tuple[int, ...]
    pieces: tuple[Piece, ...]


class Baseline(_Facts):
    """The profile that a checkpoint was compared with."""

    label: str
    reference: str
    revision: str
    text_blocks: int
    perplexity: Number | None
    dims: tuple[int, ...]


class Task(_Facts):
    """The downstream task, and the intact model's score on the examples that were measured."""

    name: str
    reference: str
    kind: str
    metric: str
    examples: int
    score: Number | None
    score_examples: int


class CheckpointResult(_Facts):
    """Everything found out about one checkpoint."""

    label: str
    reference: str
    revision: str
    architecture: str
    stack: str
    site: str
    mode: str
    ablated_layers: Any
    layers: int
    hidden_size: int
    parameters: int
    vocabulary: int
    scoring: str
    dtype: str
    device: str
    expectation: str
    seed: int
    block_size: int
    exhaustive: bool
    corpus: str
    corpus_text_blocks: int
    notes: tuple[str, ...] = ()
    masking: str | None = None
    bos: str | None = None
    context: int | None = None
    generator: str | None = None
    quantity: str = "perplexity"
    perplexity: Number | None
    nats_per_token: Number | None = None
    chance_nats_per_token: Number | None = None
    bits_per_byte: Number | None = None
    word_perplexity: Number | None = None
    perplexity_text_blocks: int
    perplexity_tokens: int
    rule: str
    expected_by_chance: Number | None
    outliers: tuple[OutlierDimension, ...]
    rules: tuple[RuleResult, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    baseline: Baseline | None = None
    checks: tuple[CheckResult, ...]
    sites: Sites | None = None
    examples: tuple[Example, ...] = ()
    task: Task | None = None

    @property
    def has_perplexity(self) -> bool:
        """Whether it is a language model; otherwise there are no text blocks."""
        return self.scoring != "task"

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions that are ablated."""
        return tuple(outlier.dim for outlier in self.outliers)

    def of(self, test: str) -> tuple[CheckResult, ...]:
        """Its checks of one kind."""
        return tuple(check for check in self.checks if check.check == test)


class RunResult(_Facts):
    """Everything a run has found out."""

    schema_: int = Field(alias="schema")
    robustness: str
    versions: dict[str, str]
    started: str
    duration_s: float
    confidence: float
    comparisons: int
    alpha: float
    policy: str | None
    baseline: str | None
    partial: bool
    problems: tuple[str, ...]
    exit_status: int
    passed: bool
    shard: dict[str, Any] | None = None
    command: str | None = None
    checkpoints: tuple[CheckpointResult, ...]


def parsed(facts: Mapping[str, Any], source: str = "this") -> RunResult:
    """The facts of a run, typed.

    Args:
        facts: by :func:`robustness.report.facts.run_facts`, or read from a JSON report.
        source: what they were read from, for messages.

    Raises:
        ReportError: one sentence on what is missing or of the wrong type.
    """
    try:
        # Strictly, and as JSON: Python's lists would be no tuples.
        found = RunResult.model_validate_json(json.dumps(facts), strict=True)
    except ValidationError as error:
        fault = first_fault(error)
        raise ReportError(f"{source} is not the JSON report of a run: {fault}") from None
    if found.schema_ != SCHEMA:
        raise ReportError(f"{source} has schema {found.schema_}, and this version reads {SCHEMA}")
    return found


def read_facts(file: Path) -> dict[str, Any]:
    """Read a JSON report, as it is.

    Raises:
        ReportError: one sentence on why it cannot be read.
    """
    text = read_document(
        file, kind="report", name="what --robustness-json has written", error=ReportError
    )
    try:
        facts = json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{file} cannot be read: {shortened(error)}") from None
    if not isinstance(facts, dict):
        raise ReportError(f"{file} is not the JSON report of a run")
    return facts


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def finite(value: float | None) -> bool:
    """Whether there is a number that has a place on an axis."""
    return value is not None and math.isfinite(value)
