"""What figures are drawn of: their data, their axes, and what they leave out for want of room."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.report.html.axes import log_axis
from robustness.report.html.figures import by_layer, degradation, history, overview
from robustness.report.html.heat_map import MOST_CELLS, columns, heat_map
from robustness.report.html.page import render, section
from robustness.report.html.sentences import described_degradation, thinned
from tests.support.plugin.html_page import Page
from tests.support.records import full_reports as full

pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")


def _with_colours(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_colours(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_colours(item) for item in value]
    if value == "@font":
        return "sans-serif"
    return "#123456" if isinstance(value, str) and value.startswith("@") else value


def test_plotly_knows_everything_that_the_figures_say() -> None:
    from plotly import graph_objects

    run = full.run(full.checkpoint(), full.checkpoint(label="other"))
    figures = {**section(run, 0).figures, "overview": overview(run)}
    assert len(figures) >= 6
    for figure in figures.values():
        graph_objects.Figure(_with_colours(figure))  # refuses unknown names and wrong values


positive = st.floats(1e-250, 1e250)


@given(st.lists(positive | st.sampled_from([math.inf, 0.0, math.nan]), max_size=8))
def test_an_axis_holds_what_is_finite_and_has_round_ticks(values: list[float]) -> None:
    axis = log_axis(values)
    assert all(axis.contains(v) for v in (1.0, *values) if math.isfinite(v) and v > 0)
    assert axis.inside(math.inf) == axis.high
    assert axis.inside(0.0) == axis.low
    assert 2 <= len(axis.ticks) <= 14
    assert all(axis.low * 0.999 <= tick <= axis.high * 1.001 for tick in axis.ticks)
    assert axis.ticks == sorted(set(axis.ticks))
    labels = axis.labels(axis.ticks)
    assert len(set(labels)) == len(labels)


def _only(**changes: Any) -> Any:
    (point,) = full.run(full.checkpoint(**changes)).checkpoints
    return point


def test_degradations_stand_at_their_values_and_infinity_at_the_edge() -> None:
    drawn = degradation(_only())
    assert drawn is not None
    points = drawn["data"][-1]
    edge = 10 ** drawn["layout"]["xaxis"]["range"][1]
    assert points["x"] == [3.0, pytest.approx(edge), 1.01]
    assert points["marker"]["symbol"] == ["circle", "triangle-right", "circle"]
    assert "∞" in points["text"][1]
    lines = [trace for trace in drawn["data"] if trace["name"].startswith("interval")]
    assert [line["x"] for line in lines] == [[2.0, 4.5], [40.0, pytest.approx(edge)], [1.0, 1.05]]
    assert lines[1]["marker"]["symbol"] == ["line-ns-open", "triangle-right"]
    assert drawn["data"][0]["x"] == [0.99, 1.0, 1.02, 1.3]
    thresholds = [s["x0"] for s in drawn["layout"]["shapes"] if s["type"] == "line"]
    assert thresholds == [1.05, 1.05, 1.1]
    bands = [s["x1"] for s in drawn["layout"]["shapes"] if s["type"] == "rect"]
    low = 10 ** drawn["layout"]["xaxis"]["range"][0]
    assert bands == [pytest.approx(edge), pytest.approx(edge), pytest.approx(low)]
    assert "dimension 7: 3 times (2 to 4.5), pass" in described_degradation(_only())


def test_a_decision_narrows_towards_what_was_decided() -> None:
    (point,) = full.run().checkpoints
    drawn = history(point.checks[0])
    assert drawn is not None
    low, high, last, measured = drawn["data"]
    assert measured["x"] == [16, 32, 48, 64]
    assert measured["y"] == pytest.approx([3.9, 3.6, 3.3, 3.0])
    assert (low["x"], low["y"]) == ([32, 48, 64], pytest.approx([1, 2 / 1.5, 2]))
    edge = 10 ** drawn["layout"]["yaxis"]["range"][1]
    assert 4.5 < edge < 9  # the frame is made for the last interval
    assert high["y"] == pytest.approx([edge, 6.75, 4.5])
    assert low["line"]["shape"] == high["line"]["shape"] == "hv"  # until the next decision
    assert last["y"] == [2.0, 4.5]
    assert drawn["layout"]["shapes"][0]["y0"] == 1.05
    assert history(point.checks[1]) is None  # was not recorded


def test_a_layer_profile_shows_every_layer() -> None:
    drawn = by_layer(_only().checks[-1])
    assert drawn is not None
    (trace,) = drawn["data"]
    edge = 10 ** drawn["layout"]["yaxis"]["range"][1]
    assert trace["x"] == list(range(6))
    assert trace["y"] == pytest.approx([1.1, 1.2, 5.0, 1.0, edge, 1.3])
    assert trace["marker"]["symbol"].index("triangle-up") == 4
    assert trace["error_y"]["array"][2] == pytest.approx(1.5)
    assert trace["error_y"]["arrayminus"][2] == pytest.approx(5 - 5 / 1.2)


def test_checkpoints_stand_side_by_side() -> None:
    points = [full.checkpoint(label=name) for name in ("first", "second")]
    drawn = overview(full.run(*points))
    assert drawn is not None
    assert drawn["layout"]["yaxis"]["ticktext"] == ["first", "second"]
    assert drawn["data"][1]["x"] == [None, 1.01, 1.01]  # the first is for the legend
    assert overview(full.run()) is None


def test_the_heat_map_shows_every_value_where_there_is_room() -> None:
    point = _only()
    drawn = heat_map(point)
    assert drawn is not None
    for trace, name in ((drawn["data"][0], "scale"), (drawn["data"][2], "bias")):
        assert trace["z"] == [
            [round(z, 2) for z in row] for row in getattr(full.sites(), f"{name}_z")
        ]
        assert np.allclose(trace["customdata"], getattr(full.sites(), name), rtol=1e-3)
        assert (trace["x0"], trace["dx"]) == (0, 1)
    marks = drawn["data"][1]
    assert list(zip(marks["x"], marks["y"], strict=True)) == [(7, layer) for layer in range(6)]
    assert [note["text"] for note in drawn["layout"]["annotations"]] == ["7"]


@given(st.integers(1, 200), st.integers(1, 20_000), st.integers(1, 50))
def test_columns_cover_every_dimension_once(layers: int, dims: int, checkpoints: int) -> None:
    found = columns(dims, layers, checkpoints)
    width = found[0].width
    assert [column.first for column in found] == list(range(0, dims, width))
    assert len(found) <= 1024
    if len(found) > 128:
        assert len(found) * layers * checkpoints <= MOST_CELLS


def test_a_wide_model_is_thinned_to_what_lies_farthest_out() -> None:
    layers, dims = 3, 3000
    point = _only(layers=layers, hidden_size=dims)
    drawn = heat_map(point)
    assert drawn is not None
    site = full.sites(layers, dims)
    z = site.scale_z
    assert z is not None
    trace = drawn["data"][0]
    assert trace["dx"] == 3
    for layer in range(layers):  # a plain loop beside the module's own
        for place, start in enumerate(range(0, dims, 3)):
            dim, value = trace["customdata"][layer][place]
            farthest = max(abs(z[layer][d]) for d in range(start, start + 3))
            assert start <= dim < start + 3
            assert abs(z[layer][dim]) == farthest
            assert trace["z"][layer][place] == round(z[layer][dim], 2)
            assert value == pytest.approx(site.scale[layer][dim], rel=1e-3)
    assert "3 neighbouring dimensions" in thinned(point, 1)
    assert (
        "3 neighbouring dimensions"
        in Page(render(full.run(full.checkpoint(layers=layers, hidden_size=dims)))).text
    )


def test_of_a_model_too_wide_for_its_report_what_is_kept_is_shown() -> None:
    sites = full.sites(hidden_size=4)
    point = _only(hidden_size=50, sites=sites.model_copy(update={"dims": (3, 7, 8, 40)}))
    drawn = heat_map(point)
    assert drawn is not None
    for layer, row in enumerate(drawn["data"][0]["z"]):
        there = {dim: z for dim, z in enumerate(row) if z is not None}
        assert list(there) == [3, 7, 8, 40]
        assert list(there.values()) == [round(z, 2) for z in (sites.scale_z or ())[layer]]
    assert set(drawn["data"][1]["x"]) == {7}
    assert "4 most extreme of 50 dimensions" in thinned(point, 1)
    unsorted = sites.model_copy(update={"dims": (3, 8, 7, 50)})
    assert heat_map(_only(hidden_size=50, sites=unsorted)) is None
