"""The one model of what a run found: workers send it, JSON is it, and every format reads it.

Its JSON is part of the public interface; the JSON Schema of it stands in ``docs``.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field, JsonValue

from robustness.checks.check import Check, Role, Source
from robustness.checks.planned import ExpectedFailure
from robustness.checks.registry import CHECKS
from robustness.report.parts import (
    Agreement,
    ComparedWith,
    Example,
    OutlierDimension,
    RuleResult,
    Sites,
    TaskResult,
    Text,
)
from robustness.statistics.figures import Figures, IntactFigures, Number
from robustness.statistics.verdict import Verdict

SCHEMA: Final = 3
"""Number of the JSON report's schema; it changes when an older reader would misread a newer one."""


Finite = Annotated[float, Field(allow_inf_nan=False)]


class CheckResult(Verdict):
    """One decided check.

    Attributes:
        id: the node id of its test.
        check: its name in the registry.
        dims: the dimensions that it is about.
        expected_failure: why and until when it may fail, or ``None``.
        examples: what was measured on the way to show it.
    """

    statement: Text
    reason: Text = ""
    id: Text
    check: Text
    dims: tuple[int, ...]
    expected_failure: ExpectedFailure | None = None
    examples: tuple[Example, ...] = ()

    @property
    def test_name(self) -> str:
        """Its test as pytest names it: ``test_ablation_degrades[bert-dim308]``."""
        return self.id.partition("::")[2]

    @property
    def name(self) -> str:
        """The name in words: ``ablation degrades``."""
        return self.check.replace("_", " ")

    @property
    def specification(self) -> Check[Any] | None:
        """What the registry says of it; ``None`` where this version does not know the check."""
        return CHECKS.get(self.check)

    @property
    def title(self) -> str:
        """What a sentence calls it, with dimensions where they tell checks of a kind apart."""
        return self.name if self.specification is None else self.specification.title

    @property
    def source(self) -> Source | None:
        """What it rests on."""
        return None if self.specification is None else self.specification.source

    @property
    def is_sanity(self) -> bool:
        """Whether nothing else means anything where it fails."""
        return self.specification is not None and self.specification.is_sanity

    @property
    def is_claim(self) -> bool:
        """Whether it asks for what the paper found."""
        return self.specification is not None and self.specification.is_claim

    @property
    def is_by_dimension(self) -> bool:
        """Whether the checks of its kind differ by dimension."""
        return self.specification is not None and self.specification.by_dimension

    @property
    def is_random(self) -> bool:
        """Whether its dimensions are random ones, of which only the number is worth saying."""
        random = self.specification is not None and self.specification.random
        return bool(self.dims) and (random or self.details.draws is not None)

    @property
    def row(self) -> str | None:
        """Its row among degradations; ``None`` where none was measured."""
        if self.specification is None or self.measured is None:
            return None
        return self.specification.row(self.dims)

    @property
    def is_factor(self) -> bool:
        """Whether its number multiplies something, so that logarithms of it are compared."""
        return self.measure in ("ratio", "factor")

    @property
    def is_accepted(self) -> bool:
        """Whether it lets a run pass: also where it fails as the policy expects."""
        if self.outcome == "fail" and self.expected_failure is not None:
            return not self.expected_failure.expired
        return self.outcome in ("pass", "not applicable")

    def plays(self, role: Role, source: Source = "text") -> bool:
        """Tell whether it has this part in what is told of a checkpoint."""
        known = self.specification
        return known is not None and (known.role, known.source) == (role, source)

    def is_of_one_dimension(self, source: Source) -> bool:
        """Tell whether it is of a kind that asks about one dimension after the other."""
        return self.is_by_dimension and CHECKS[self.check].source == source


class CheckpointResult(Figures):
    """Everything found out about one checkpoint.

    Attributes:
        label: its short name in test ids, unique in the run.
        ablated_layers: the layers in which dimensions are switched off, as the policy has it.
        dtype: the precision that may be used beside float32.
        masking: how tokens are masked; ``None`` where the scoring masks none. Likewise ``context``
            and ``generator``.
        corpus_text_blocks: how many there are; the checks say how many of them they saw.
        notes: what the user should know about the checkpoint or the corpus.
        quantity: what is measured of a text, in words.
        intact: the intact model on the most text blocks that any check saw.
        rule: the rule that decides what is ablated, with its settings.
        expected_by_chance: how many dimensions it would flag by chance.
        outliers: what it found.
        rules: what every rule found, that one first.
        agreement: every dimension that some rule found, those of most rules first.
        sites: the parameters that the rules look at, where they are known.
        checks: those that were decided, in the order of the suite.
    """

    label: Text
    reference: Text
    revision: Text
    architecture: Text
    stack: str
    site: str
    mode: str
    ablated_layers: JsonValue
    layers: int
    hidden_size: int
    parameters: int
    vocabulary: int
    scoring: str
    dtype: str
    masking: str | None
    bos: str
    context: int | None
    generator: Text | None
    generator_revision: str | None
    device: str
    expectation: str
    change: str
    seed: int
    block_size: int
    exhaustive: bool
    corpus: Text
    corpus_text_blocks: int
    notes: tuple[Text, ...]
    quantity: str
    intact: IntactFigures | None
    rule: Text
    expected_by_chance: Number | None
    outliers: tuple[OutlierDimension, ...]
    rules: tuple[RuleResult, ...]
    agreement: tuple[Agreement, ...]
    sites: Sites | None
    compared_with: ComparedWith | None
    task: TaskResult | None
    checks: tuple[CheckResult, ...]

    @property
    def has_perplexity(self) -> bool:
        """Whether it is a language model; otherwise there are no text blocks."""
        return self.scoring != "task"

    @property
    def dims(self) -> tuple[int, ...]:
        """The outlier dimensions, which are ablated."""
        return tuple(outlier.dim for outlier in self.outliers)

    @property
    def examples(self) -> tuple[Example, ...]:
        """What one of its checks shows."""
        return next((check.examples for check in self.checks if check.examples), ())

    @property
    def refused(self) -> tuple[CheckResult, ...]:
        """The checks that fail the run."""
        return tuple(check for check in self.checks if not check.is_accepted)

    def of(self, role: Role, source: Source = "text") -> tuple[CheckResult, ...]:
        """Return the checks with this part that measured something."""
        playing = (check for check in self.checks if check.plays(role, source))
        return tuple(check for check in playing if check.measured is not None)

    def with_checks(self, checks: Iterable[CheckResult]) -> "CheckpointResult":
        """Return the same with these checks and what the widest say of the intact model."""
        decided = tuple(checks)
        figures = [check.details.intact for check in decided if check.details.intact is not None]
        widest = max(figures, key=lambda intact: intact.text_blocks, default=None)
        changes: dict[str, Any] = {"checks": decided, "intact": widest}
        if self.task is not None:
            changes["task"] = _scored(self.task, decided)
        return self.model_copy(update=changes)


class Shard(Figures):
    """Which part of a run a report is of.

    Attributes:
        index: its number, from 1 on.
        count: how many there are.
        plan: identifies the whole plan.
        expected: names of the tests that this part decides.
        all: names of all tests of the whole, by checkpoint.
    """

    index: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=1)]
    plan: str
    expected: tuple[Text, ...]
    all: dict[Text, tuple[Text, ...]]

    def __str__(self) -> str:
        """Return the part as it is asked for: ``1/3``."""
        return f"{self.index}/{self.count}"


class Report(Figures):
    """Everything a run found out.

    Attributes:
        schema_: the number of this schema, ``schema`` in JSON.
        robustness: the version that wrote it.
        versions: of Python and the packages that numbers depend on.
        command: what the user typed, as a shell would take it again.
        started: when the run started, by the clock on the wall.
        duration_s: how long it took.
        confidence: with which all verdicts together are right.
        comparisons: statistical comparisons in the whole plan.
        alpha: error probability of each.
        policy: the file that it came from; ``None`` for defaults.
        compared_with: what checkpoints were compared with, as it was named.
        partial: whether planned checks were left out.
        problems: why the run is no verdict although no test failed.
        exit_status: of the session; tests that have nothing to do with vetting count, too.
        passed: whether everything may be released.
        shard: which part of a run this is; ``None`` for a whole.
        merged: of how many parts the report of a whole was made; ``None`` if of one run.
        checkpoints: in the order they were named.
        sha256: of the report of a part, so that nobody changes it on the way.
    """

    schema_: Literal[3] = Field(alias="schema")
    robustness: Text
    versions: dict[str, str]
    command: Text | None
    started: Text
    duration_s: Finite
    confidence: Finite
    comparisons: int
    alpha: Finite
    policy: Text | None
    compared_with: Text | None
    partial: bool
    problems: tuple[Text, ...]
    exit_status: int
    passed: bool
    shard: Shard | None
    merged: int | None
    checkpoints: tuple[CheckpointResult, ...]
    sha256: str | None = None

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        """All that were decided."""
        return tuple(check for checkpoint in self.checkpoints for check in checkpoint.checks)

    @property
    def vetted(self) -> tuple[CheckpointResult, ...]:
        """The checkpoints of which something was decided."""
        return tuple(checkpoint for checkpoint in self.checkpoints if checkpoint.checks)


def presence_test() -> str:
    """Return the test that accounts for checks that do not apply: that of outlier dimensions."""
    return f"test_{next(name for name, check in CHECKS.items() if check.role == 'presence')}"


def unaccounted(checks: Sequence[CheckResult]) -> list[CheckResult]:
    """Return the checks of a checkpoint that do not apply, unless its outlier check says why."""
    if any(check.plays("presence", "files") for check in checks):
        return []
    return [
        check
        for check in checks
        if check.outcome == "not applicable"
        and (check.specification is None or check.specification.needs_outliers)
    ]


def _scored(task: TaskResult, checks: Sequence[CheckResult]) -> TaskResult:
    tasks = [check.details.task for check in checks if check.details.task is not None]
    if not tasks:
        return task.model_copy(update={"score": None, "score_examples": 0})
    widest = max(tasks, key=lambda figures: min(figures.examples, figures.task_examples))
    seen = min(widest.examples, task.examples)
    return task.model_copy(update={"score": widest.intact_score, "score_examples": seen})
