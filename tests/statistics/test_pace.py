"""What a long measurement says of itself while it runs."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.checkpoint.resolving import resolve
from robustness.policy.policy import load_policy
from robustness.statistics.pace import RECENT, Pace, in_words
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.plugin.plugin_support import DIM, Stubs


def pace(*times: float) -> Pace:
    ticks = iter(times)
    return Pace(lambda: next(ticks))


def test_the_first_look_tells_nothing_of_the_time() -> None:
    assert pace(0.0).left_s("a", 16, 100) is None


@given(step=st.floats(0.001, 1000), looks=st.integers(2, 30), most=st.integers(1, 1000))
def test_at_a_steady_pace_the_time_left_is_that_of_the_rest(
    step: float, looks: int, most: int
) -> None:
    found = pace(*(step * n for n in range(looks)))
    for n in range(looks):
        left = found.left_s("a", 16 * (n + 1), most)
    assert left == pytest.approx(step / 16 * max(0, most - 16 * looks))


def test_what_came_from_the_store_at_once_is_soon_forgotten() -> None:
    times = [0.0] * 20 + [10.0 * n for n in range(1, RECENT + 1)]
    found = pace(*times)
    for n in range(len(times)):
        left = found.left_s("a", 16 * (n + 1), 16 * (len(times) + 6))
    assert left == pytest.approx(60)


def test_another_claim_and_the_same_once_more_begin_anew() -> None:
    found = pace(0.0, 16.0, 17.0, 33.0, 40.0)
    found.left_s("a", 16, 64)
    assert found.left_s("a", 32, 64) == pytest.approx(32)
    assert found.left_s("b", 48, 64) is None
    assert found.left_s("b", 64, 64) == 0
    assert found.left_s("b", 16, 64) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.4, "5 s"), (99, "99 s"), (150, "2 min"), (12_600, "3.5 h")]
)
def test_time_is_said_shortly(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def lines_of(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> tuple[Vetting, list[str]]:
    """A vetting whose every look takes a minute, and what it says."""
    ticks = iter(range(0, 1_000_000, 60))
    monkeypatch.setattr("robustness.vetting.Pace", lambda: Pace(lambda: float(next(ticks))))
    lines: list[str] = []
    options = {"corpus": str(stubs.corpus), "exhaustive": True}
    vetting = Vetting(
        checkpoint=resolve(str(stubs.model), cache=stubs.store),
        settings=load_policy(None, options=options).settings("model"),
        context=Context(root=stubs.store, progress=lines.append),
    )
    return vetting, lines


def test_a_line_says_ratio_interval_text_blocks_and_time_left(
    stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    vetting, lines = lines_of(stubs, monkeypatch)
    verdict = vetting.ablate(DIM).degrades(by=1.5)
    n_blocks = vetting.measurement.layout.n_blocks
    steps = list(verdict.history)
    assert len(lines) == len(steps) > 3
    for number, (line, step) in enumerate(zip(lines, steps, strict=True)):
        assert line.startswith(f"x{step.measured:.4g}")
        assert f" after {step.seen}/{n_blocks} text blocks" in line
        assert line.endswith(f": {verdict.statement}")
        shown = re.search(r" \((\S+) to (\S+)\) after", line)
        if number in (0, len(steps) - 1):  # nothing known yet; exact
            assert shown is None
        else:
            assert shown is not None
            assert list(map(float, shown.groups())) == pytest.approx(step.interval, rel=1e-2)
        left = re.search(r", at most (\d+) (min|s) left", line)
        expected = 60 / 16 * (n_blocks - step.seen)
        assert (left is None) == (number == 0 or expected < 5)
        if left:
            seconds = int(left[1]) * (60 if left[2] == "min" else 1)
            assert seconds == pytest.approx(expected, abs=31)


def test_every_claim_says_how_long_it_may_take(
    stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    vetting, lines = lines_of(stubs, monkeypatch)
    verdict = vetting.ablate_random(1).is_harmless(within=1.1)
    assert "at most" in lines[1]
    assert re.search(r"x\S+ \(\S+ to \S+\) after", lines[-1])
    assert verdict.details.draws is not None
    # max_draws, and not the end of the corpus, bounds the random control.
    blocks_per_draw = verdict.seen / verdict.details.draws.draws
    most = 60 / 16 * (1000 * blocks_per_draw - verdict.seen)
    left = re.search(r"at most (\S+) (min|h) left", lines[-1])
    assert left is not None
    assert float(left[1]) * {"min": 60, "h": 3600}[left[2]] == pytest.approx(most, rel=0.05)
    lines.clear()
    intact = vetting.intact().beats_uniform_guess()
    figure = re.match(r"(\S+) \((\S+) to (\S+)\) after", lines[2])
    assert figure is not None
    now, low, high = map(float, figure.groups())
    assert low < now < high
    assert intact.history[2].interval is not None
    # The figure is the one that the statement is about: perplexity divided by the vocabulary.
    assert high == pytest.approx(intact.history[2].interval[1], rel=1e-2)
    assert math.isfinite(high)
    lines.clear()
    vetting.layer_sweep([DIM]).recorded()
    assert "at most" in lines[1]
