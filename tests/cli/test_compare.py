"""``robustness compare``: what matters most first, in 80 columns, as JSON and as a page."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from robustness.cli.app import app
from robustness.report.compared import SCHEMA, Compared
from robustness.report.html.compared import to_html
from robustness.report.html.location import restored
from robustness.report.terminal.compared import lines_of
from robustness.statistics.location import StateChanges
from tests.support.checkpoints.checkpoint_folders import (
    TINY_GPT2,
    save_checkpoint,
    tiny_model,
)
from tests.support.checkpoints.damage import LAYER, changed_copy, layers_from, scaled
from tests.support.checkpoints.shared import shared_data, shared_model
from tests.support.plugin.html_page import Page

SWAPPED = "layers 1 and 2 hold each other's weights"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swapped") / "candidate"
    return changed_copy(shared_model("sapiens-roberta-vl"), folder, layers_from({1: 2, 2: 1}))


def run(*arguments: object, store: Path) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments), f"--store={store}"])


def on_text(candidate: Path, *more: object, store: Path) -> Result:
    reference = shared_model("sapiens-roberta-vl")
    return run(
        candidate, reference, f"--corpus={shared_data('antibody-light.fa')}", *more, store=store
    )


@pytest.fixture(scope="module")
def found(swapped: Path, store: Path) -> Compared:
    file = store / "found.json"
    result = on_text(swapped, f"--json={file}", store=store)
    assert result.exit_code == 0, result.output
    assert f"robustness: wrote {file}" in result.stdout
    facts = json.loads(file.read_text())
    assert facts.pop("schema") == SCHEMA
    return Compared.model_validate_json(json.dumps(facts))


def test_what_matters_most_comes_first(found: Compared) -> None:
    lines = lines_of(found, unicode=True)
    first = " ".join(line.strip() for line in lines[: lines.index("")])
    states = found.location.states
    assert states is not None
    ratio = math.exp(states.candidate_nats - states.reference_nats)
    assert first == (
        f"Perplexity is {ratio:.4g} times the reference's on 8 text blocks; most of it from "
        f"layers 1 and 2: {SWAPPED}."
    )
    assert f"  - {SWAPPED}" in lines
    assert "files: 32 of 74 tensors differ (all in layers 1 and 2)" in lines


def test_every_layer_has_a_row_in_80_columns(found: Compared) -> None:
    for unicode in (True, False):
        lines = lines_of(found, unicode=unicode)
        assert [line for line in lines if len(line) > 80 and "/" not in line] == []
        rows = [line.split() for line in lines if line.startswith(("  embedding", "  layer "))]
        assert len(rows) == 5
        assert rows[2][:4] == ["layer", "1", "36", "%"]
        assert rows[2][-2:] == ["55", "%"]
        assert "%*" in rows[2]
        assert rows[4][-2:] == ["100", "%"]
    assert all(line.isascii() for line in lines_of(found, unicode=False))


def test_the_page_is_closed_and_says_the_same(found: Compared) -> None:
    pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")
    page = Page(to_html(found))
    for name in ("src", "srcset", "action", "poster", "background"):
        assert page.all(name) == []
    assert page.parts_that_cannot_be_followed() == set()
    assert found.headline in page.text
    figures = json.loads(page.scripts[0])
    bars, points = figures["moved"]["data"]
    states = found.location.states
    assert states is not None
    assert bars["x"] == [-1, 0, 1, 2, 3]
    assert bars["y"] == pytest.approx([100 * each.moved for each in states.layers])
    assert points["x"] == [0, 1, 2, 3]
    assert figures["restored"]["data"][0]["y"][-1] == pytest.approx(100, abs=0.1)
    assert figures["moved"]["layout"]["xaxis"]["ticktext"] == ["embedding", "0", "1", "2", "3"]


def test_a_page_without_text_has_no_figures(swapped: Path, store: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")
    page = tmp_path / "page.html"
    result = on_text(swapped, "--files-only", f"--html={page}", store=store)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{SWAPPED.capitalize()}.\n")
    assert "text:" not in result.stdout
    assert 'class="plot"' not in page.read_text()


def test_the_same_checkpoint_is_said_to_be_the_same(store: Path) -> None:
    result = on_text(shared_model("sapiens-roberta-vl"), store=store)
    assert result.exit_code == 0
    assert result.stdout.startswith("The candidate is the reference, bit by bit.\n")
    assert "files:" not in result.stdout


def test_a_model_that_computes_no_numbers_is_shown(store: Path, tmp_path: Path) -> None:
    broken = scaled(f"{LAYER}1.output.dense.weight", [3], math.nan)
    folder = changed_copy(shared_model("sapiens-roberta-vl"), tmp_path / "broken", broken)
    result = on_text(folder, f"--json={tmp_path / 'out.json'}", store=store)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Perplexity is not finite on 8 text blocks; layer 1 is the")
    facts = json.loads((tmp_path / "out.json").read_text())
    states = StateChanges.model_validate_json(json.dumps(facts["location"]["states"]))
    assert math.isnan(states.candidate_nats)
    assert restored(states) is None


def test_what_cannot_be_compared_is_said_in_a_sentence(tmp_path: Path, store: Path) -> None:
    small = save_checkpoint(tmp_path / "small")
    wide = save_checkpoint(tmp_path / "wide", tiny_model(hidden_size=32))
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w3 w4 w5 " * 200)
    result = run(small, wide, f"--corpus={text}", store=store)
    assert result.exit_code == 0, result.output
    assert "hidden states cannot be compared: the candidate has 2 layers of 16" in result.stdout
    words = " ".join(result.stdout.split())
    assert "hidden_size is 16, the reference's 32" in words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("bert", "gpt2"), "token 5 is 'w0' here and 'other' in the reference"),
        (("bert", "nowhere"), "nowhere"),
        (("bert", "damaged", "--corpus=nowhere.txt"), "nowhere.txt"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, store: Path
) -> None:
    save_checkpoint(tmp_path / "bert")
    save_checkpoint(tmp_path / "damaged", tiny_model(initializer_range=0.1))
    save_checkpoint(tmp_path / "gpt2", tiny_model("GPT2LMHeadModel", **TINY_GPT2))
    file = tmp_path / "gpt2" / "tokenizer.json"
    file.write_text(file.read_text().replace('"w0"', '"other"'))
    names = [tmp_path / name if not name.startswith("-") else name for name in arguments]
    result = run(*names, store=store)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
