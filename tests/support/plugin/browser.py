"""A headless Chromium for tests; they are skipped, with the reason, where there is none."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """The browser's path; skips the test where it or playwright is missing."""
    pytest.importorskip("playwright", reason="needs playwright (extra 'browser')")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs a browser (apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One for a module's tests: longer, and its event loop would be in the way of others.

    Chromium refuses its sandbox to root, as whom containers run tests.
    """
    path = chromium()
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A page that was opened, and everything that it did beside being shown."""

    page: "Page"
    trouble: list[str] = field(default_factory=list)

    def figure(self, name: str) -> Any:
        """Data and layout of a figure, as plotly holds them."""
        return self.page.evaluate(
            "name => { const { data, layout } = document.getElementById(name);"
            " return JSON.parse(JSON.stringify({ data, layout })) }",
            name,
        )


@contextmanager
def shown(browser: "Browser", file: Path, *, phone: bool = False, **more: Any) -> Iterator[Shown]:
    """Open a page, and wait until its figures are drawn; its trouble is checked at the end."""
    size = {"width": 390, "height": 844} if phone else {"width": 1200, "height": 900}
    options: dict[str, Any] = {"viewport": size, "has_touch": phone, "is_mobile": phone, **more}
    context = browser.new_context(**options)
    page = context.new_page()
    found = Shown(page=page)
    page.on("console", lambda message: found.trouble.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.trouble.append(f"error: {error}"))
    page.on("dialog", lambda dialog: found.trouble.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: _note(found, request.url, file))
    try:
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-figures=drawn]", timeout=60_000)
        yield found
        assert found.trouble == []
    finally:
        context.close()


def until(page: Shown, done: Callable[[], bool]) -> None:
    """Wait for something; the page's policy forbids playwright's own way, which is ``eval``."""
    for _ in range(200):
        if done():
            return
        page.page.wait_for_timeout(25)
    raise AssertionError("it did not happen within 5 seconds")


def fits(page: Shown) -> None:
    """Nothing is wider than the screen, every figure is drawn, no two labels touch."""
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.page.evaluate(wide) == 0
    drawn = page.page.locator(".plot").evaluate_all(
        "plots => plots.map((plot) => plot.querySelectorAll('.main-svg').length)"
    )
    assert drawn
    assert all(drawn)
    assert _touching_labels(page) == []


def points(page: Shown, name: str, trace: int) -> list[tuple[float, float]]:
    """Where the marks of a trace are drawn, in units of the axes: read off the SVG's own pixels.

    Args:
        page: that is shown.
        name: of the figure.
        trace: its place among the scatter traces that are drawn.
    """
    pixels, frame, ranges, kinds = page.page.evaluate(
        """([name, trace]) => {
          const plot = document.getElementById(name);
          const marks = plot.querySelectorAll(".scatterlayer .trace")[trace]
            .querySelectorAll(".points path.point");
          const centre = (box) => [box.x + box.width / 2, box.y + box.height / 2];
          const pixels = [...marks].map((mark) => {
            const matrix = mark.getCTM(), svg = mark.ownerSVGElement.getCTM();
            return [matrix.e - (svg ? svg.e : 0), matrix.f - (svg ? svg.f : 0)];
          });
          const grid = plot.querySelector(".plotclip rect"), size = plot._fullLayout._size;
          const frame = [size.l, size.t, +grid.getAttribute("width"), +grid.getAttribute("height")];
          const { xaxis, yaxis } = plot.layout;
          return [pixels, frame, [xaxis.range, yaxis.range], [xaxis.type, yaxis.type]];
        }""",
        [name, trace],
    )
    left, top, width, height = frame

    def value(share: float, axis: int) -> float:
        low, high = ranges[axis]
        found = low + share * (high - low)
        return float(10**found if kinds[axis] == "log" else found)

    return [(value((x - left) / width, 0), value(1 - (y - top) / height, 1)) for x, y in pixels]


def _touching_labels(page: Shown) -> list[str]:
    """Axes whose labels touch each other."""
    found: list[str] = page.page.locator(".plot").evaluate_all(
        """plots => plots.flatMap((plot) => ["x", "y", "y2", "y3"]
          .map((name) => `.${name}tick text`).flatMap((kind) => {
            const boxes = [...plot.querySelectorAll(kind)]
              .map((text) => text.getBoundingClientRect());
            const touch = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
              && a.top < b.bottom - 1 && b.top < a.bottom - 1;
            return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => touch(a, b)))
              .map(() => `${plot.id} ${kind}`);
          }))"""
    )
    return found


def _note(found: Shown, url: str, file: Path) -> None:
    """Any request but that for the file itself is trouble; data in the page is none."""
    if url.partition("#")[0] != file.as_uri() and not url.startswith(("data:", "blob:")):
        found.trouble.append(f"request: {url}")
