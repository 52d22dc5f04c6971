"""What the terminal shows."""

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustness.checks.planned import ExpectedFailure
from robustness.policy.settings import Settings
from robustness.report.cells import COLUMNS
from robustness.report.results import CheckResult
from robustness.report.terminal import header
from robustness.report.terminal import summary as terminal
from robustness.run.plan import RunPlan
from robustness.statistics.details import Details
from robustness.statistics.figures import (
    DrawFigure,
    DrawFigures,
    IntactFigures,
    LayerFigure,
    PrecisionCost,
    PrecisionFigures,
)
from tests.support.records import run_reports
from tests.support.records.plans import plan


def checked(check: str, **verdict: Any) -> CheckResult:
    """A decided check of which no more is known than a test needs."""
    found: dict[str, Any] = {"outcome": "pass", "statement": "c", "dims": (7,), **verdict}
    return CheckResult(id=f"x::test_{check}[bert]", check=check, **found)


def summary(*checks: CheckResult, verbosity: int = 0, **more: Any) -> list[str]:
    found: dict[str, Any] = {
        "corpus": "wikitext",
        "intact": None,
        "outliers": (),
        "rules": (run_reports.rule("busters", ()),),
        **more,
    }
    report = run_reports.run(run_reports.checkpoint("bert", checks=checks, **found))
    return [line.text for line in terminal.lines_of(report, verbosity=verbosity)]


def test_the_header_says_which_stack_is_vetted_and_where_it_is_ablated() -> None:
    usual = plan("bart")
    assert not any("vetted" in line or "ablations" in line for line in header.header(usual))
    (only,) = usual.checkpoints
    other = replace(
        only,
        model_profile=replace(only.model_profile, stack="decoder"),
        settings=Settings(site="residual", mode="mean", layers=[1]),
    )
    lines = header.header(replace(usual, checkpoints=(other,)))
    assert any("2 layers x 32 in the decoder, which is vetted, 110 M" in line for line in lines)
    assert "  ablations (site residual, mode mean, layer 1)" in lines


def test_a_layer_profile_takes_a_line_or_two() -> None:
    """Also where the damage is infinite."""
    ratios = [1.0, *([1.01] * 20), float("inf"), 2.5]
    layers = tuple(LayerFigure(layer=n, ratio=ratio) for n, ratio in enumerate(ratios))
    lines = summary(checked("layer_profile", details=Details(layers=layers)))
    (start,) = (number for number, line in enumerate(lines) if line.startswith("layer profile:"))
    assert " ".join(line.strip() for line in lines[start : start + 2]) == (
        "layer profile: largest xinf in layer 21, x2.5 in layer 22, x1.01 in layer 1; "
        "smallest x1 in layer 0"
    )


@pytest.mark.parametrize(("side", "sign"), [("below", "<"), ("above", ">=")])
def test_the_table_shows_on_which_side_a_check_passes(side: Any, sign: str) -> None:
    """Whatever the statement's words are."""
    for statement in ("stays below 3", "is at least 3", "less than 3"):
        lines = summary(checked("x", statement=statement, measured=2.0, threshold=3.0, passes=side))
        (row,) = [line for line in lines if line.startswith("x ")]
        assert f"{sign} 3 " in row


def test_the_side_is_in_the_json() -> None:
    below = checked("x", threshold=3.0, passes="below").model_dump(mode="json")
    assert below["passes"] == "below"
    assert checked("x").model_dump(mode="json")["passes"] is None


def test_the_random_control_is_summed_up_and_wrapped() -> None:
    worst = (
        DrawFigure(dims=(1001, 2002, 3003, 4004), measured=1.04),
        DrawFigure(dims=(3,), measured=1.02),
    )
    details = Details(draws=DrawFigures(draws=268, mean=1.001, worst=worst))
    lines = summary(
        checked("test_random", measured=1.0, passes="below", tokens=17420, details=details)
    )
    first = next(n for n, line in enumerate(lines) if line.startswith("random control: "))
    note = lines[first:]
    assert " ".join(map(str.strip, note)) == (
        "random control: 268 draws of about 65 tokens each, mean 1.001, highest 1.04 "
        "(dimensions 1001, 2002, 3003, 4004; a single draw is noisy)"
    )
    assert len(note) == 2
    assert note[1].startswith("  ")
    assert max(map(len, note)) <= 100


def test_more_text_blocks_than_the_corpus_has_are_explained() -> None:
    lines = summary(
        checked("a", seen=156),
        checked("b", seen=268),
    )
    assert any(line.split()[-2:] == ["268*", "pass"] for line in lines)
    assert any(line.split()[-2:] == ["156", "pass"] for line in lines)
    assert lines[-1] == "* in up to 2 passes over the corpus of 156 text blocks"


def test_one_pass_needs_no_explanation() -> None:
    assert "passes" not in "\n".join(summary(checked("a", seen=156)))


@pytest.mark.parametrize(
    ("source", "shown"),
    [(None, "policy: defaults;"), ("/somewhere/robustness.toml", "policy: /somewhere/robustness")],
)
def test_the_header_names_the_policy_and_fits(source: str | None, shown: str) -> None:
    lines = header.header(plan("bert-base", source=source))
    assert shown in " ".join(map(str.strip, lines))
    assert max(map(len, lines)) <= 100
    assert "  busters: 7" in lines
    text = " ".join(" ".join(lines).split())
    assert "expectation paper" in text
    assert text.count("17 examples are longer") == 3


def test_a_long_path_stays_in_one_piece() -> None:
    source = f"/{'a' * 150}/robustness.toml"
    assert any(f"{source};" in line for line in header.header(plan("bert", source=source)))


def test_the_policys_source_reaches_the_workers() -> None:
    for source in ("policy.toml", None):
        assert RunPlan.from_json(plan("bert", source=source).to_json()).policy_source == source


def test_a_selection_has_a_line_and_a_whole_run_none() -> None:
    assert header.partial(0, 6) == []
    (line,) = header.partial(5, 6)
    assert "PARTIAL" in line
    assert "5 of 6 planned checks" in line
    assert len(line) <= 100


def test_a_discriminators_loss_is_shown_beside_chance_and_not_called_perplexity() -> None:
    intact = IntactFigures(
        perplexity=None,
        nats_per_token=0.25,
        chance_nats_per_token=0.42,
        text_blocks=156,
        tokens=2800,
    )
    check = checked("x", statement="it is so", details=Details(intact=intact))
    text = " ".join(summary(check, intact=intact, quantity="replaced-token loss"))
    assert "intact replaced-token loss 0.25 nats per token (by chance: 0.42) over 156 of" in text
    assert "perplexity" not in text


@pytest.mark.parametrize(
    ("dtype", "end"), [("bfloat16", "used: bfloat16"), ("float32", ": float32")]
)
def test_the_discrepancy_of_reduced_precision_is_shown(dtype: str, end: str) -> None:
    costs = tuple(PrecisionCost(slack_nats=slack, distance_nats=9.0) for slack in (0.123, 0.04))
    details = Details(precision=PrecisionFigures(dtype=dtype, costs=costs))
    lines = summary(checked("x", seen=48, details=details))
    note = " ".join(map(str.strip, lines[lines.index(next(x for x in lines if "x, 7:" in x)) :]))
    assert "by up to 0.12 nats per text block" in note
    assert note.endswith(end)
    assert "reduced precision" not in "\n".join(summary(checked("x")))


def test_the_header_says_which_precision_may_be_used() -> None:
    (planned,) = plan("bert").checkpoints
    assert " float32 on cpu" in " ".join(header.header(plan("bert")))
    reduced = dataclasses.replace(
        plan("bert"), checkpoints=(dataclasses.replace(planned, dtype="bfloat16"),)
    )
    text = " ".join(" ".join(header.header(reduced)).split())
    assert "float32 and, where that suffices, bfloat16 on cpu" in text


OUTLIER = run_reports.outlier(7, layers=(0, 3), z_scale=(-5.25, 4.0), z_bias=(3.5, 6.0))


def test_quiet_is_a_line_and_what_failed() -> None:
    good = checked("a", measured=2.0, threshold=1.0, passes="above")
    bad = checked("b", outcome="fail", reason="why")
    skipped = checked("c", outcome="not applicable")
    assert summary(good, skipped, verbosity=-1) == [
        "robustness: bert: PASS: it has no outlier dimensions (1 not applicable)."
    ]
    head, columns, row = summary(good, bad, skipped, verbosity=-1)
    assert head == "robustness: bert: FAIL: b (dim 7): fail; why."
    assert tuple(columns.split()) == COLUMNS
    assert row.split() == ["b", "7", "fail"]


def test_verbose_says_what_each_check_claims_and_twice_every_layer() -> None:
    layers = tuple(LayerFigure(layer=n, ratio=1.5 + n, interval=(1.0, 2.0 + n)) for n in range(2))
    check = checked(
        "test_a",
        statement="it is so",
        reason="since",
        tokens=99,
        details=Details(layers=layers),
    )
    default, once, twice = (
        summary(check, outliers=(OUTLIER,), verbosity=level) for level in (0, 1, 2)
    )
    assert "    it is so; since; 99 tokens" not in default
    assert "    it is so; since; 99 tokens" in once
    assert set(default) < set(once) < set(twice)
    assert "  dimension 7, scale in std by layer: 0: -5.2, 3: +4.0" in twice
    assert "  dimension 7, bias in std by layer: 0: +3.5, 3: +6.0" in twice
    assert "  layer 1: x2.5 (1 to 3)" in twice


NUMBERS = st.floats(min_value=1e-300, max_value=1e300) | st.just(float("inf"))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["embedding_norm_alone_is_harmless", "a", "outliers"]),
            st.lists(st.integers(0, 20_000), min_size=1, max_size=3, unique=True),
            NUMBERS,
            NUMBERS,
            NUMBERS,
            st.integers(0, 10**6),
            st.sampled_from(["pass", "fail", "inconclusive", "not applicable"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_table_fits_whatever_was_measured(rows: list[Any]) -> None:
    expired = ExpectedFailure(reason="r", expires="2026-01-01", expired=True)
    checks = [
        checked(
            name,
            outcome=outcome,
            measured=measured,
            seen=seen,
            dims=tuple(dims),
            threshold=low,
            passes="above",
            interval=(low, high),
            expected_failure=expired,
        )
        for name, dims, measured, low, high, seen, outcome in rows
    ]
    lines = summary(*checks)
    assert max(map(len, lines)) <= 100
    shown = " ".join(" ".join(lines).split())
    assert all(name.split("_")[0] in shown for name, *_ in rows)


def test_verdicts_have_their_colours() -> None:
    checks = (checked("a"), checked("b", outcome="fail"), checked("c", outcome="inconclusive"))
    report = run_reports.run(run_reports.checkpoint("bert", checks=checks))
    title, *lines = terminal.lines_of(report)
    assert title.is_title
    assert title.pieces == (("robustness: bert", {"bold": True}),)
    table = [line.pieces for line in lines if len(line.pieces) == 2]
    assert [pieces[1] for pieces in table] == [
        ("verdict", {"bold": True}),
        ("pass", {"green": True}),
        ("fail", {"red": True, "bold": True}),
        ("inconclusive", {"yellow": True, "bold": True}),
    ]
    assert [pieces[0][1]["bold"] for pieces in table] == [True, False, False, False]
