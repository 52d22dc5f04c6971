"""How a task's decision narrowed, look by look, and what those who wait are told of it."""

import json
import math
import re
import statistics
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from robustness.ablation.interventions import FixedAblation, Intact
from robustness.checkpoint.resolving import resolve
from robustness.checks.tasks.models import TaskModels
from robustness.policy.policy import Policy
from robustness.report.html.figures import history as history_figure
from robustness.report.html.sentences import described_history
from robustness.report.results import CheckResult
from robustness.statistics.pace import Pace
from robustness.statistics.verdict import Verdict
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.records.task_stubs import DIM, save_classifier, write_classified

ALPHA = 0.002
N = 240

Asked = Callable[..., TaskModels]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier and its examples."""
    found = tmp_path_factory.mktemp("history")
    save_classifier(found / "model", num_labels=2)
    write_classified(found / "task.tsv")
    return found


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def asked(root: Path, lines: list[str]) -> Asked:
    def make(metric: str, *, exhaustive: bool = False) -> TaskModels:
        task = {"data": f"{root / 'task.tsv'}:sentence:label", "metric": metric}
        policy = Policy(options={"task": task, "exhaustive": exhaustive})
        return Vetting(
            checkpoint=resolve(str(root / "model"), cache=root, task="auto"),
            settings=policy.settings("model"),
            context=Context(
                root=root / "store",
                progress=lambda line: lines.append(line) if " examples" in line else None,
            ),
        ).task

    return make


def _reported(verdict: Verdict) -> dict[str, Any]:
    """As in the JSON report, after a trip through a file."""
    reported: dict[str, Any] = json.loads(verdict.model_dump_json())
    return reported


def _ends_where_the_verdict_stands(verdict: Verdict) -> None:
    steps = _reported(verdict)["history"]
    assert steps[-1]["seen"] == verdict.seen
    assert steps[-1]["measured"] == (verdict.measured if verdict.measured != math.inf else "inf")
    assert steps[-1]["interval"] == (verdict.interval and list(verdict.interval))
    seen = [each["seen"] for each in steps]
    assert seen == sorted(set(seen))


def _drops(task: TaskModels) -> list[float]:
    """1, 0 or -1 of each example, in the order of measurement, from the stored logits."""
    intervention = FixedAblation(ablation=task.subject.ablation((DIM,)))
    found = []
    for index in range(task.task.measurement.n_chunks):
        intact, ablated = task.task.measurement.chunk(index, Intact(), intervention)
        labels = task.task.labels[index * 16 : index * 16 + len(intact)]
        for one, other, label in zip(intact, ablated, labels, strict=True):
            found.append(float(int(one[1] > one[0]) == label) - (int(other[1] > other[0]) == label))
    return found


def _bounds(drops: list[float]) -> list[float]:
    """By the formulas of docs/PROTOCOL.md."""
    n, mean, s = len(drops), math.fsum(drops) / len(drops), statistics.stdev(drops)
    rho2 = (-2 * math.log(ALPHA) + math.log(-2 * math.log(ALPHA)) + 1) / 64
    w = s * math.sqrt(
        2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / ALPHA)
    )
    guard = math.log(1 / ALPHA) / n
    return [mean - w - guard * (1 + mean), mean + w + guard * (1 - mean)]


def test_every_look_at_an_accuracy_is_in_the_history(asked: Asked) -> None:
    task = asked("accuracy", exhaustive=True)
    verdict = task.ablate([DIM]).score_drops(by=0.05, alpha=ALPHA)
    drops = _drops(task)
    steps = _reported(verdict)["history"]
    assert [each["seen"] for each in steps] == list(range(16, N + 1, 16))
    for each in steps:
        seen = drops[: each["seen"]]
        assert each["measured"] == pytest.approx(math.fsum(seen) / len(seen), abs=1e-12)
        if len(seen) in (16, N):
            assert each["interval"] is None  # too few, and exact
        else:
            assert each["interval"] == pytest.approx(_bounds(seen), abs=1e-9)
    _ends_where_the_verdict_stands(verdict)


@pytest.mark.parametrize("metric", ["accuracy", pytest.param("matthews", marks=pytest.mark.slow)])
def test_every_claim_has_a_history_that_ends_where_its_verdict_stands(
    metric: str, asked: Asked
) -> None:
    task = asked(metric)
    verdicts = (
        task.intact().beats_a_guess(alpha=ALPHA),
        task.ablate([DIM]).score_drops(by=0.05, alpha=ALPHA),
        task.ablate([DIM]).score_holds(within=0.02, alpha=ALPHA),
        task.ablate([DIM]).recorded(alpha=ALPHA),
        task.ablate([DIM]).matters_more_than_chance(alpha=ALPHA),
        task.ablate_random(1).score_holds(within=0.02, alpha=ALPHA),
    )
    for verdict in verdicts:
        _ends_where_the_verdict_stands(verdict)
    control = verdicts[-1]
    if metric == "matthews":
        assert [each.draws for each in control.history] == [
            each.seen // 32 for each in control.history
        ]
        assert control.details.draws is not None
        assert control.history[-1].draws == control.details.draws.draws


def test_a_factor_that_cannot_be_decided_is_given_up_and_says_what_it_would_take(
    asked: Asked,
) -> None:
    """A thousand times as much as nothing: any flip that 8,192 examples missed would belie it."""
    verdict = asked("accuracy").ablate([DIM]).matters_more_than_chance(factor=1000, alpha=ALPHA)
    assert verdict.outcome == "inconclusive"
    assert verdict.details.task is not None
    assert 1024 <= verdict.details.task.examples < 1024 + 16
    assert re.search(
        r"to compare them takes about \d0,000 examples, and max_examples is 8,192: raise "
        r"checks\.random_ablation_keeps_task_score\.max_examples, or disable ",
        verdict.reason,
    )


def _one_second_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count()
    monkeypatch.setattr("robustness.vetting.Pace", lambda: Pace(lambda: float(next(seconds))))


def test_progress_says_drop_interval_examples_and_time_left(
    asked: Asked, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one second for every 16 examples."""
    _one_second_a_look(monkeypatch)
    task = asked("accuracy", exhaustive=True)
    verdict = task.ablate([DIM]).score_drops(by=0.05, alpha=ALPHA)
    assert len(lines) == len(verdict.history) == 15
    for place, (line, each) in enumerate(zip(lines, verdict.history, strict=True)):
        interval = each.interval
        within = "" if interval is None else f" ({interval[0]:.3g} to {interval[1]:.3g})"
        left = 15 - place - 1
        until = f", at most {left} s left" if place > 0 and left >= 5 else ""
        n = 16 * (place + 1)
        assert (
            line
            == f"{each.measured:+.4g}{within} after {n}/{N} examples{until}: {verdict.statement}"
        )


def test_progress_of_a_control_counts_to_max_examples(
    asked: Asked, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _one_second_a_look(monkeypatch)
    task = asked("matthews")
    verdict = task.ablate_random(1).score_holds(within=0.02, alpha=ALPHA)
    second_pass = next(line for line in lines if "pass 2" in line)
    assert "after 16/240 examples, pass 2" in second_pass
    left = re.search(r"at most (\d+) min left", second_pass)
    assert left is not None
    assert int(left[1]) == round((8192 - 256) / 16 / 60)
    assert str(verdict.statement) in second_pass


def test_between_the_looks_at_a_correlation_progress_goes_on(
    asked: Asked, lines: list[str]
) -> None:
    task = asked("matthews")
    verdict = task.ablate([DIM]).score_drops(by=0.05, alpha=ALPHA)
    assert verdict.exact  # 240 examples have no bootstrap before their end
    assert len(verdict.history) == 1
    assert [line.partition(" after ")[2].partition("/")[0] for line in lines] == [
        str(n) for n in range(16, N + 1, 16)
    ]


def test_the_page_draws_drops_on_a_linear_axis_of_examples(asked: Asked) -> None:
    task = asked("accuracy")
    verdict = task.ablate([DIM]).score_drops(by=0.05, alpha=ALPHA)
    check = CheckResult(
        **dict(verdict), id=f"t.py::test[m-dim{DIM}]", check="task_score_drops", dims=(DIM,)
    )
    figure = history_figure(check)
    assert figure is not None
    assert figure["layout"]["xaxis"]["title"]["text"] == "examples"
    assert figure["layout"]["yaxis"].get("type") != "log"
    assert figure["data"][-1]["y"] == [each.measured for each in verdict.history]
    assert "×" not in json.dumps(figure["data"], ensure_ascii=False)
    assert f"after {verdict.seen}: " in described_history(check)
    assert "16 examples" in described_history(check)
