"""The page of a trace as a browser shows it: closed, fitting, its marks at their values."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustness.report.trace.page import to_html
from tests.support.plugin.browser import Shown, fits, shown, until
from tests.support.records.trace_steps import RULE, emerging, furthest_layer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from robustness.trace.emergence import Step

pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")

OVER_STEPS = "over-steps"
OFTEN = (("one", True), ("unnamed", False))
"""What is looked at in every run: where something was wrong once."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "trace.html"
    path.write_text(to_html(emerging(), RULE))
    return path


@pytest.fixture(scope="module")
def desk(browser: "Browser", file: Path) -> Iterator[Shown]:
    with shown(browser, file) as page:
        yield page


def _marks(page: Shown, name: str, trace: str) -> list[tuple[float, float]]:
    """Where the marks of a trace are drawn, in units of its axes: read off the SVG's pixels.

    The frame of its axes is measured on the page, too; only their ranges are plotly's word.
    """
    found = page.page.evaluate(
        """([name, trace]) => {
          const plot = document.getElementById(name);
          const index = plot.data.findIndex((each) => each.name === trace);
          const own = plot.calcdata.find((each) => each[0].trace.index === index)[0].node3;
          const marks = [...own.node().querySelectorAll(".points path.point")]
            .map((mark) => mark.getBoundingClientRect())
            .map((box) => [box.x + box.width / 2, box.y + box.height / 2]);
          const { xaxis } = plot._fullLayout;
          const yaxis = plot._fullLayout[(plot.data[index].yaxis || "y").replace("y", "yaxis")];
          const whole = plot.querySelector(".main-svg").getBoundingClientRect();
          const frame = [xaxis._offset, xaxis._length, yaxis._offset, yaxis._length];
          return [marks, [whole.x, whole.y], frame,
            [xaxis.range, yaxis.range], [xaxis.type, yaxis.type]];
        }""",
        [name, trace],
    )
    marks, (left, top), (x0, width, y0, height), ranges, kinds = found

    def value(share: float, axis: int) -> float:
        low, high = ranges[axis]
        at = low + share * (high - low)
        return float(10**at if kinds[axis] == "log" else at)

    return [
        (value((x - left - x0) / width, 0), value(1 - (y - top - y0) / height, 1)) for x, y in marks
    ]


@pytest.mark.parametrize(
    ("scheme", "phone"),
    [
        pytest.param("light", False, id="light", marks=pytest.mark.slow),
        pytest.param("dark", False, id="dark", marks=pytest.mark.slow),
        pytest.param("dark", True, id="phone"),
    ],
)
def test_it_opens_quietly_and_fits_any_screen(
    browser: "Browser", file: Path, scheme: Any, phone: bool
) -> None:
    with shown(browser, file, phone=phone, color_scheme=scheme) as page:
        fits(page)
        ink = page.page.evaluate(
            f"getComputedStyle(document.querySelector('#{OVER_STEPS} .ytick text')).fill"
            ".match(/\\d+/g).map(Number)"
        )
        assert (min(ink) > 200) == (scheme == "dark")


@pytest.mark.parametrize(
    ("case", "phone"),
    [
        pytest.param(case, phone, marks=[] if (case, phone) in OFTEN else pytest.mark.slow)
        for case in ("bare", "quiet", "one", "unmeasured", "unnamed")
        for phone in (False, True)
    ],
)
def test_runs_that_lack_something_look_right(
    browser: "Browser", tmp_path: Path, case: str, phone: bool
) -> None:
    steps = emerging()
    cases: dict[str, Sequence[Step]] = {
        "bare": [replace(step, measured=None) for step in steps],
        "quiet": steps[:2],
        "one": steps[-1:],
        "unmeasured": [replace(s, unmeasurable="a reason", measured=None) for s in steps[:3]],
        "unnamed": [replace(step, step=None) for step in steps],
    }
    file = tmp_path / "trace.html"
    file.write_text(to_html(cases[case], RULE))
    with shown(browser, file, phone=phone) as page:
        fits(page)


def test_marks_stand_at_their_values(desk: Shown) -> None:
    fits(desk)
    flagged = sorted(_marks(desk, OVER_STEPS, "flagged"))
    expected = [
        (5000, 0), (5000, 2), (20_000, 0), (100_000, 0), (100_000, 1), (200_000, 0), (200_000, 1)
    ]  # fmt: skip
    assert [x for x, _ in flagged] == pytest.approx([x for x, _ in expected], rel=0.02)
    assert sorted(round(y) for _, y in flagged) == sorted(y for _, y in expected)
    perplexity = _marks(desk, OVER_STEPS, "perplexity")
    assert [x for x, _ in perplexity] == pytest.approx([500, 5e3, 2e4, 1e5, 2e5], rel=0.02)
    assert [y for _, y in perplexity] == pytest.approx([400, 90, 20, 8, 5], rel=0.04)
    for name, ratios in (
        ("7, 30 together", [1.001, 1.2, 3, 30, 80]),
        ("7 alone", [1, 1.15, 2.5, 9, 20]),
        ("2 random", [1, 1.01, 1.02, 1.03, 1.04]),
    ):
        assert [y for _, y in _marks(desk, OVER_STEPS, name)] == pytest.approx(ratios, rel=0.04)


def test_scale_and_bias_stand_at_their_values(desk: Shown) -> None:
    steps = emerging()
    for of in ("scale", "bias"):
        layer = furthest_layer(steps[-1], of, 7)
        for kind, arrays in (
            ("value", [getattr(step.scan, of) for step in steps]),
            ("z", [getattr(step.scan, f"z_{of}") for step in steps]),
        ):
            marks = _marks(desk, f"dimension-7-{of}-{kind}", "followed")
            expected = [float(array[layer, 7]) for array in arrays]
            room = 0.02 * (max(expected) - min(expected))
            assert [y for _, y in marks] == pytest.approx(expected, abs=room)


def test_a_mark_tells_its_numbers(desk: Shown) -> None:
    place = desk.page.locator(f"#{OVER_STEPS}")
    place.scroll_into_view_if_needed()
    boxes = place.locator(".scatterlayer .trace").nth(3).locator("path.point")
    box = boxes.last.bounding_box()
    assert box is not None
    desk.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = place.locator(".hoverlayer .hovertext")
    label.first.wait_for(timeout=5000)
    assert "step 200,000" in (label.first.text_content() or "")


def test_it_prints_in_light(browser: "Browser", file: Path, tmp_path: Path) -> None:
    ink = f"getComputedStyle(document.querySelector('#{OVER_STEPS} .ytick text')).fill"
    with shown(browser, file, color_scheme="dark") as page:
        dark = page.page.evaluate(ink)
        page.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        until(page, lambda: page.page.evaluate(ink) != dark)
        widths = page.page.locator(".plot .main-svg").evaluate_all(
            "all => all.map((svg) => svg.getBoundingClientRect().width)"
        )
        assert max(widths) <= 660
        page.page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.page.wait_for_selector("html[data-figures=drawn]")
        assert page.page.pdf(path=tmp_path / "page.pdf", format="A4").startswith(b"%PDF")
