"""The HTML report as a browser shows it: closed, drawn at the right places, readable anywhere."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from robustness.report.html.page import render
from tests.support.plugin.browser import Shown, fits, points, shown, until
from tests.support.records import full_reports as full

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")

DEGRADATION, MAP, HISTORY, PROFILE = (
    f"checkpoint-1-{name}" for name in ("degradation", "map", "history-0", "profile")
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    other = full.checkpoint(
        label="other", sites=None, checks=[full.check("joint_ablation_degrades")]
    )
    path.write_text(render(full.run(full.checkpoint(), other)))
    return path


@pytest.fixture(scope="module")
def desk(browser: "Browser", file: Path) -> Iterator[Shown]:
    """The page on a wide light screen; what it did is checked at the end."""
    with shown(browser, file) as page:
        yield page


@pytest.mark.parametrize(
    ("scheme", "phone"),
    [("light", False), ("dark", False), ("dark", True)],
    ids=["light", "dark", "phone"],
)
def test_it_opens_quietly_and_fits_any_screen(
    browser: "Browser", file: Path, tmp_path: Path, scheme: Any, phone: bool
) -> None:
    with shown(browser, file, phone=phone, color_scheme=scheme) as page:
        picture = page.page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert picture.startswith(b"\x89PNG")
        fits(page)
        light = page.page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        ink = page.page.evaluate(
            f"getComputedStyle(document.querySelector('#{DEGRADATION} .ytick text')).fill"
            ".match(/\\d+/g).map(Number)"
        )
        assert (min(light) > 230) == (scheme == "light")
        assert (min(ink) > 200) == (scheme == "dark")  # the figures follow
        assert page.page.locator(".plot").count() >= 6


def test_points_of_degradations_are_drawn_at_their_values(desk: Shown) -> None:
    traces = [t for t in desk.figure(DEGRADATION)["data"] if t["type"] == "scatter" and t["x"]]
    names = [trace["name"] for trace in traces]
    measured = points(desk, DEGRADATION, names.index("measured"))
    edge = 10 ** desk.figure(DEGRADATION)["layout"]["xaxis"]["range"][1]
    assert [x for x, _ in measured] == pytest.approx([3.0, edge, 1.01], rel=0.02)
    assert [y for _, y in measured] == pytest.approx([0, 1, 2], abs=0.05)
    ends = points(desk, DEGRADATION, names.index("interval 0"))
    assert [x for x, _ in ends] == pytest.approx([2.0, 4.5], rel=0.02)
    draws = points(desk, DEGRADATION, names.index("draws"))
    assert [x for x, _ in draws] == pytest.approx([0.99, 1.0, 1.02, 1.3], rel=0.02)


def test_a_decision_and_a_layer_profile_are_drawn_at_their_values(desk: Shown) -> None:
    names = [trace.get("name") for trace in desk.figure(HISTORY)["data"]]
    marks = [name for name in names if name]  # the band's edges have none
    entries = points(desk, HISTORY, names.index(marks[-1]))
    assert [x for x, _ in entries] == pytest.approx([16, 32, 48, 64], rel=0.02)
    assert [y for _, y in entries] == pytest.approx([3.9, 3.6, 3.3, 3.0], rel=0.03)
    layers = points(desk, PROFILE, 0)
    assert [x for x, _ in layers] == pytest.approx(range(6), abs=0.05)
    assert [y for _, y in layers][:4] == pytest.approx([1.1, 1.2, 5.0, 1.0], rel=0.03)


def test_the_heat_map_has_its_colours_where_the_outliers_are(desk: Shown) -> None:
    drawn = desk.figure(MAP)
    z = full.sites()
    for trace, name in ((drawn["data"][0], "scale_z"), (drawn["data"][2], "bias_z")):
        assert trace["z"] == [[round(value, 2) for value in row] for row in getattr(z, name)]
    pixels = desk.page.evaluate(
        """async (name) => {
          const images = [...document.querySelectorAll(`#${name} .heatmaplayer image`)];
          return Promise.all(images.map(async (image) => {
            const picture = new Image();
            picture.src = image.getAttribute("href") || image.getAttribute("xlink:href");
            await picture.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [picture.width, picture.height];
            const context = canvas.getContext("2d", { willReadFrequently: true });
            context.drawImage(picture, 0, 0);
            const at = (dim, layer) => [...context.getImageData(
              Math.floor(((dim + 0.5) / 40) * picture.width),
              Math.floor((1 - (layer + 0.5) / 6) * picture.height), 1, 1).data];
            return [at(7, 2), at(7, 5), at(20, 2)];
          }));
        }""",
        MAP,
    )
    hot, cold = (127, 39, 4), (8, 48, 107)  # --hot and --cold of the light scheme
    assert len(pixels) == 2
    for (low, high, other), end, name in zip(
        pixels, (hot, cold), ("scale_z", "bias_z"), strict=True
    ):
        distance = [math.dist(pixel[:3], end) for pixel in (low, high, other)]
        nearness = [abs(getattr(z, name)[layer][dim]) for layer, dim in ((2, 7), (5, 7), (2, 20))]
        assert nearness[2] < 3 < nearness[0]
        assert max(distance[:2]) < 60 < distance[2]
    marks = points(desk, MAP, 0)
    assert [x for x, _ in marks] == pytest.approx([7] * 6, abs=0.3)


def test_hovering_tells_layer_dimension_z_and_value(desk: Shown) -> None:
    place = desk.page.locator(f"#{MAP}")
    place.scroll_into_view_if_needed()
    box = place.locator(".heatmaplayer image").first.bounding_box()
    assert box is not None
    desk.page.mouse.move(box["x"] + box["width"] * 20.5 / 40, box["y"] + box["height"] * 3.5 / 6)
    label = place.locator(".hoverlayer .hovertext")
    label.first.wait_for(timeout=5000)
    text = label.first.text_content() or ""
    site = full.sites()
    assert "layer 2, dimension 20" in text
    assert f"z = {(site.scale_z or ())[2][20]:+.2f}".replace("-", "−") in text.replace("-", "−")
    assert f"{site.scale[2][20]:.4g}" in text


def test_names_from_outside_do_nothing(browser: "Browser", tmp_path: Path) -> None:
    bad = full.HOSTILE
    sites = full.sites().model_copy(update={"site": bad})
    point = full.checkpoint(label=bad, notes=[bad], examples=(full.example(bad),), sites=sites)
    file = tmp_path / "hostile.html"
    file.write_text(render(full.run(point, point, command=bad, problems=[bad])))
    with shown(browser, file) as page:  # an error or a request would be trouble
        assert page.page.locator("img").count() == 0
        assert page.page.title().startswith("Robustness: </script>")
        tick = page.page.locator("#overview .ytick text").first.text_content() or ""
        assert tick.startswith("</script><im")  # as text, cut


def test_the_keyboard_reaches_everything(desk: Shown) -> None:
    desk.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    seen = []
    for _ in range(8):
        desk.page.keyboard.press("Tab")
        seen.append(
            desk.page.evaluate(
                "(e => [e.className || e.tagName, e.getAttribute('href'),"
                " getComputedStyle(e).outlineStyle])(document.activeElement)"
            )
        )
    assert seen[0][:2] == ["skip", "#main"]
    assert ["A", "#checkpoint-2"] in [entry[:2] for entry in seen]
    assert [entry for entry in seen if entry[0] == "scroll"]
    assert all(outline != "none" for *_, outline in seen)


def test_it_follows_the_colour_scheme_and_prints_in_light(
    browser: "Browser", file: Path, tmp_path: Path
) -> None:
    ink = f"getComputedStyle(document.querySelector('#{DEGRADATION} .ytick text')).fill"
    with shown(browser, file, color_scheme="light") as page:
        light = page.page.evaluate(ink)
        page.page.emulate_media(color_scheme="dark")
        until(page, lambda: page.page.evaluate(ink) != light)
        page.page.wait_for_selector("html[data-figures=drawn]")
        page.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.page.evaluate(ink) == light
        widths = page.page.locator(".plot .main-svg").evaluate_all(
            "all => all.map((svg) => svg.getBoundingClientRect().width)"
        )
        assert max(widths) <= 660
        page.page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.page.wait_for_selector("html[data-figures=drawn]")
        assert page.page.evaluate(ink) != light
        assert page.page.pdf(path=tmp_path / "page.pdf", format="A4").startswith(b"%PDF")
