"""The page of a trace as text, and its figures by their data; a browser's part is elsewhere."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from robustness.report.trace.dimension_figures import distances, step_axis, step_name, values
from robustness.report.trace.figures import degradation_lines, over_steps, tight
from robustness.report.trace.page import heading, said, to_html
from robustness.report.trace.terminal import lines_of
from robustness.trace.emergence import histories
from tests.support.plugin.html_page import Page
from tests.support.records.trace_steps import RULE, ablated, emerging, furthest_layer, measured

pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")


@pytest.fixture(scope="module")
def html() -> str:
    return to_html(emerging(), RULE)


def _axis(steps: Any) -> Any:
    return step_axis([step.step for step in steps])


def _trace(figure: Any, name: str) -> Any:
    (found,) = (trace for trace in figure["data"] if trace.get("name") == name)
    return found


# ---------------------------------------------------------------- the page


def test_the_page_is_closed_and_its_parts_can_be_followed(html: str) -> None:
    page = Page(html)
    for name in ("src", "srcset", "action", "poster", "background"):
        assert page.all(name) == []
    assert all(target.startswith(("#", "data:,")) for target in page.all("href"))
    policy = next(a["content"] or "" for _, a in page.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == 2
    assert page.all("id")
    assert page.parts_that_cannot_be_followed() == set()
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    plots = [attrs for _, attrs in page.tags if attrs.get("class") == "plot"]
    assert len(plots) == 1 + 3 * 4  # over the steps; value and z of scale and bias
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in plots)


def test_the_page_says_what_emerged_and_what_it_was_good_for(html: str) -> None:
    text = Page(html).text
    assert "Dimensions 7, 30 emerged and stayed" in text
    assert "Measured on text: 5 of 6." in text
    assert "Flagged at 4 of 6 checkpoints; from step 5,000 on it stays." in text
    assert "Flagged at 1 of 6 checkpoints, last at step 5,000; not in the end." in text
    assert "checkpoint-200000 5 ×80 ×20 ×2.5 ×1.04 64 7, 30" in text
    assert "checkpoint-1000 – – – – – none" in text
    for name in ("7, 30 together off", "7 alone off", "30 alone off", "2 random off"):
        assert name in text


def test_without_measurements_or_outliers_or_with_one_checkpoint_it_says_so() -> None:
    bare = [replace(step, measured=None) for step in emerging()]
    text = Page(to_html(bare, RULE)).text
    assert "--measure adds perplexity" in text
    assert "text blocks" not in text
    quiet = emerging()[:2]
    text = Page(to_html(quiet, RULE)).text
    assert "No outlier dimension emerged" in text
    assert "The rule finds no dimension at any checkpoint" in text
    assert "checkpoint-0 400" in text
    only = emerging()[-1:]
    text = Page(to_html(only, RULE)).text
    assert "2 outlier dimensions at step 200k" in text
    assert "Flagged at the only checkpoint." in text
    assert "1 checkpoint of one run" in text
    gone = emerging()[:4]
    gone[-1] = replace(gone[-1], scan=replace(gone[0].scan, label="checkpoint-20000"))
    assert heading(gone, histories(gone, RULE)) == "No outlier dimension stayed"
    there = emerging()[2:4]
    text = Page(to_html(there, RULE)).text
    assert "Dimension 7 stands out from the first checkpoint on" in text
    assert "7 at the first 2 of 2" in text
    both = histories(emerging()[3:], RULE)
    found = heading(emerging()[3:], both)
    assert (
        found == "Dimension 30 emerged and stayed; 1 more stands out from the first checkpoint on"
    )
    assert not distances(both[0], emerging()[3:], _axis(emerging()[3:]), of="bias", k=3.0)[
        "layout"
    ]["shapes"][2:]
    followed = histories(quiet, RULE, also=[3])
    assert said(followed[0], quiet) == "Never flagged; followed since it was asked for."


def test_names_from_outside_are_text() -> None:
    bad = "</script><img src=x onerror=alert(1)>"
    steps = [
        replace(
            step,
            reference=bad,
            step=None,
            unmeasurable=bad,
            scan=replace(step.scan, label=bad, architecture=bad),
        )
        for step in emerging()
    ]
    html = to_html(steps, RULE)
    page = Page(html)
    assert not {"img"} & {tag for tag, _ in page.tags}
    assert "<img" not in html
    assert len(page.scripts) == 3
    assert "could not be measured" in page.text


# ---------------------------------------------------------------- the figures


def test_what_is_flagged_and_measured_stands_at_its_step() -> None:
    steps = emerging()
    found = histories(steps, RULE)
    assert [history.dim for history in found] == [7, 30, 19]
    figure = over_steps(steps, found, _axis(steps))
    assert figure is not None
    flagged = _trace(figure, "flagged")
    assert sorted(zip(flagged["x"], flagged["y"], strict=True)) == [
        (5000, 0), (5000, 2), (20_000, 0), (100_000, 0), (100_000, 1), (200_000, 0), (200_000, 1)
    ]  # fmt: skip
    assert len(_trace(figure, "not flagged")["x"]) == 3 * len(steps) - len(flagged["x"])
    stays = _trace(figure, "stays")
    assert stays["x"] == [5000, 200_000, None, 100_000, 200_000, None]
    assert _trace(figure, "perplexity")["x"] == [500, 5000, 20_000, 100_000, 200_000]
    assert _trace(figure, "perplexity")["y"] == [400, 90, 20, 8, 5]
    assert _trace(figure, "7, 30 together")["y"] == pytest.approx([1.001, 1.2, 3, 30, 80])
    assert _trace(figure, "30 alone")["y"] == pytest.approx([1.002, 1.01, 1.1, 1.8, 2.5])
    assert _trace(figure, "2 random")["y"] == pytest.approx([1, 1.01, 1.02, 1.03, 1.04])
    bars = _trace(figure, "7, 30 together")["error_y"]
    assert bars["array"][2] == pytest.approx(3.0)
    assert bars["arrayminus"][2] == pytest.approx(1.5)
    assert {trace.get("yaxis", "y") for trace in figure["data"]} == {"y", "y2", "y3"}
    tops = [figure["layout"][f"yaxis{n}"]["domain"] for n in ("", "2", "3")]
    assert all(above[0] > below[1] for above, below in pairwise(tops))


def test_an_infinite_degradation_is_drawn_at_the_edge() -> None:
    steps = emerging()
    steps[-1] = replace(steps[-1], measured=measured(5.0, **ablated(math.inf, {7: 2.0}, 1.0)))
    steps[:-1] = [replace(step, measured=None) for step in steps[:-1]]
    (line, random) = degradation_lines(steps)
    assert (line.name, random.name) == ("dimension 7", "a random one")
    figure = over_steps(steps, histories(steps, RULE), _axis(steps))
    assert figure is not None
    trace = _trace(figure, "dimension 7")
    edge = 10 ** figure["layout"]["yaxis3"]["range"][1]
    assert trace["y"] == [pytest.approx(edge)]
    assert trace["marker"]["symbol"] == ["triangle-up-open"]
    assert "×∞" in trace["text"][0]
    assert "×∞" in Page(to_html(steps, RULE)).text


def test_a_loss_is_no_perplexity() -> None:
    steps = [
        replace(step, measured=measured(loss, quantity="replaced-token loss", interval=None))
        for step, loss in zip(emerging(), (0.4, 0.3, 0.2, 0.2, 0.1, 0.1), strict=True)
    ]
    figure = over_steps(steps, histories(steps, RULE), _axis(steps))
    assert figure is not None
    assert _trace(figure, "replaced-token loss")["y"] == [0.4, 0.3, 0.2, 0.2, 0.1, 0.1]
    assert figure["layout"]["yaxis2"].get("type") != "log"
    text = Page(to_html(steps, RULE)).text
    assert "perplexity" not in text
    assert "checkpoint-0 0.4 64 none" in text
    lines = lines_of(steps, RULE, unicode=False)
    assert any(line.startswith("checkpoint ") and line.split()[1] == "loss" for line in lines)


def test_scale_and_bias_of_a_dimension_are_drawn_beside_the_others() -> None:
    steps = emerging()
    x = _axis(steps)
    history = histories(steps, RULE)[0]
    for of in ("scale", "bias"):
        arrays = [getattr(step.scan, of) for step in steps]
        layer = furthest_layer(steps[-1], of, 7)
        value = _trace(values(history, steps, x, of=of, k=2.0), "followed")
        assert value["y"] == [pytest.approx(array[layer, 7]) for array in arrays]
        assert value["marker"]["symbol"] == ["circle-open"] * 2 + ["circle"] * 4
        low, high, _ = values(history, steps, x, of=of, k=2.0)["data"]
        for array, below, above in zip(arrays, low["y"], high["y"], strict=True):
            mean, std = array[layer].mean(), array[layer].std(ddof=1)
            assert (below, above) == pytest.approx((mean - 2 * std, mean + 2 * std))
        figure = distances(history, steps, x, of=of, k=2.0)
        z = [getattr(step.scan, f"z_{of}") for step in steps]
        assert _trace(figure, "followed")["y"] == [pytest.approx(each[layer, 7]) for each in z]
        assert figure["data"][0]["y"] == [pytest.approx(each[:, 7].min()) for each in z]
        dashed = [shape["y0"] for shape in figure["layout"]["shapes"] if shape["y0"] == shape["y1"]]
        assert dashed == [-2.0, 2.0]
        (upright,) = [shape for shape in figure["layout"]["shapes"] if shape.get("x0") == 5000]
        assert upright["x1"] == 5000


def test_steps_stand_on_a_logarithmic_axis_and_zero_before_them() -> None:
    axis = step_axis([0, 100, 1000])
    assert axis.x == (50, 100, 1000)
    assert axis.names == ("0", "100", "1,000")
    low, high = axis.figure()["range"]
    assert low < math.log10(50)
    assert high > 3
    alone = step_axis([0]).figure()
    assert alone["range"][0] < alone["range"][1]
    assert alone["ticktext"] == ["0"]
    unnamed = step_axis([None, 5])
    assert unnamed.x == (1, 2)
    assert not unnamed.logarithmic
    assert unnamed.figure()["ticktext"] == ["1", "2"]
    assert [step_name(n) for n in (7, 2500, 20_000, 1_200_000, 10_001)] == [
        "7", "2,500", "20k", "1.2M", "10,001",
    ]  # fmt: skip


def test_ticks_of_many_steps_keep_their_distance() -> None:
    steps = list(range(250, 25_001, 250))
    axis = step_axis(steps).figure()
    places = [math.log10(value) for value in axis["tickvals"]]
    assert (axis["tickvals"][0], axis["tickvals"][-1]) == (250, 25_000)
    gaps = [b - a for a, b in pairwise(places)]
    assert min(gaps) >= 2 / 8
    assert len(gaps) >= 4


def test_an_axis_of_perplexity_holds_every_value() -> None:
    for held in ([5.0], [5.0, 4000.0], [math.inf], [1.0, 1.0]):
        scale = tight(held, [0.0, math.inf])
        assert 0 < scale.low < scale.high < math.inf
        assert all(scale.contains(value) for value in held if math.isfinite(value))
        assert len(scale.ticks) >= 2
