"""The page of a real checkpoint in a browser, each mark held against the run's numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.checkpoints.shared import shared_data, shared_model
from tests.support.plugin.browser import Shown, fits, points, shown
from tests.support.plugin.plugin_support import Run, run_suite

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")

NAME = "sapiens-roberta-vl"
LAYERS, HIDDEN_SIZE, CHAINS = 4, 128, 64
MAX_BYTES = 6_000_000


@pytest.fixture(scope="module")
def run(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Antibody light chains, few of them, and each layer on its own, too."""
    del browser  # first: where there is none nothing needs to be measured
    folder = tmp_path_factory.mktemp("real")
    chains = shared_data("antibody-light.fa").read_text().split("\n>")[:CHAINS]
    (folder / "light.fa").write_text("\n>".join(chains) + "\n")
    found = run_suite(
        folder,
        f"--model={shared_model(NAME)}",
        "--robustness-corpus=light.fa",
        "--robustness-enable=layer_profile",
        "--robustness-html=report.html",
        "--robustness-store=store",
    )
    assert found.result.ret in (0, 1)
    assert found.facts["problems"] == []
    return found


@pytest.fixture(scope="module")
def desk(browser: "Browser", run: Run) -> Iterator[Shown]:
    """What it did is checked at the end: no message, no error, no request."""
    with shown(browser, run.folder / "report.html") as page:
        yield page


def figure(name: str) -> str:
    return f"checkpoint-1-{name}"


def checkpoint(run: Run) -> dict[str, Any]:
    (found,) = run.facts["checkpoints"]
    assert isinstance(found, dict)
    return found


def drawn_in(page: Shown, name: str) -> list[dict[str, Any]]:
    """The scatter traces that have marks, in the order in which they are drawn."""
    data = page.figure(name)["data"]
    return [trace for trace in data if trace["type"] == "scatter" and trace["x"]]


@pytest.mark.parametrize(
    ("scheme", "phone"),
    [("light", False), ("dark", False), ("dark", True), ("light", True)],
    ids=["light", "dark", "phone dark", "phone light"],
)
def test_it_opens_quietly_and_fits_any_screen(
    browser: "Browser", run: Run, tmp_path: Path, scheme: Any, phone: bool
) -> None:
    file = run.folder / "report.html"
    assert file.stat().st_size < MAX_BYTES
    with shown(browser, file, phone=phone, color_scheme=scheme) as page:
        picture = page.page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert picture.startswith(b"\x89PNG")
        fits(page)
        drawn = page.page.locator(".plot").evaluate_all("plots => plots.map((plot) => plot.id)")
        assert {figure(name) for name in ("degradation", "map", "profile")} < set(drawn)


def test_degradations_stand_at_the_ratios_of_the_report(desk: Shown, run: Run) -> None:
    traces = drawn_in(desk, figure("degradation"))
    names = [trace["name"] for trace in traces]
    measured = [
        check
        for check in checkpoint(run)["checks"]
        if check["measured"] is not None and "ablation" in check["check"]
    ]
    assert len(measured) >= 4  # two dimensions, both together, a control
    marks = points(desk, figure("degradation"), names.index("measured"))
    assert [x for x, _ in marks] == pytest.approx([c["measured"] for c in measured], rel=0.02)
    assert [y for _, y in marks] == pytest.approx(range(len(measured)), abs=0.05)
    (control,) = [check for check in measured if "random" in check["check"]]
    draws = points(desk, figure("degradation"), names.index("draws"))
    ratios = control["details"]["draws"]["by_draw"]
    assert sorted(x for x, _ in draws) == pytest.approx(sorted(ratios), rel=0.02)


def test_the_heat_map_marks_the_outlier_dimensions(desk: Shown, run: Run) -> None:
    vetted = checkpoint(run)
    drawn = desk.figure(figure("map"))["data"]
    maps = [trace for trace in drawn if trace["type"] == "heatmap"]
    for trace, name in zip(maps, ("scale_z", "bias_z"), strict=True):
        z = vetted["sites"][name]
        assert [len(z), len(z[0])] == [LAYERS, HIDDEN_SIZE]
        assert trace["z"] == [[round(value, 2) for value in row] for row in z]
    expected = sorted(
        (outlier["dim"], layer) for outlier in vetted["outliers"] for layer in outlier["layers"]
    )
    assert len(expected) >= LAYERS  # two dimensions, each in at least half of the layers
    marks = sorted(points(desk, figure("map"), 0))
    assert [x for x, _ in marks] == pytest.approx([dim for dim, _ in expected], abs=0.4)
    assert sorted(y for _, y in marks) == pytest.approx(
        sorted(layer for _, layer in expected), abs=0.2
    )


def test_every_layer_stands_at_its_own_degradation(desk: Shown, run: Run) -> None:
    (profile,) = [c for c in checkpoint(run)["checks"] if c["check"] == "layer_profile"]
    layers = profile["details"]["layers"]
    assert [one["layer"] for one in layers] == list(range(LAYERS))
    marks = points(desk, figure("profile"), 0)
    assert [x for x, _ in marks] == pytest.approx(range(LAYERS), abs=0.05)
    assert [y for _, y in marks] == pytest.approx([one["ratio"] for one in layers], rel=0.02)


def test_decisions_narrow_to_what_was_decided(desk: Shown, run: Run) -> None:
    decided = 0
    for number, check in enumerate(checkpoint(run)["checks"]):
        history = check["history"]
        if not history or check["check"] == "layer_profile":  # many decisions, drawn as one
            continue
        traces = drawn_in(desk, figure(f"history-{number}"))
        marked = [n for n, trace in enumerate(traces) if "markers" in trace["mode"]]
        marks = points(desk, figure(f"history-{number}"), marked[-1])
        assert marks[-1][0] == pytest.approx(history[-1]["seen"], rel=0.02)
        assert marks[-1][1] == pytest.approx(history[-1]["measured"], rel=0.03)
        decided += 1
    assert decided >= 4


def test_it_shows_what_the_model_says_with_and_without(desk: Shown, run: Run) -> None:
    text = desk.page.locator("main").inner_text()
    assert any(check["examples"] for check in checkpoint(run)["checks"])
    dims = [str(outlier["dim"]) for outlier in checkpoint(run)["outliers"]]
    assert all(dim in text for dim in dims)
    assert "--robustness-enable=layer_profile" in text  # the exact command
