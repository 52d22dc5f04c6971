"""The checkpoints of a run on text: as a plain loop finds, from the store, killed, and refused."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner, Result

from robustness.cli.app import app
from robustness.errors import PolicyError
from robustness.measurement.execution import Execution
from robustness.trace.run_order import chosen
from tests.support.checkpoints.checkpoint_folders import tiny_tokenizer
from tests.support.plugin.plugin_support import (
    DIM,
    HIDDEN_SIZE,
    OTHER_DIM,
    VOCABULARY,
    save_stub,
    zipf_text,
)
from tests.support.records import reference

FLAGGED: dict[int, list[int]] = {0: [], 100: [], 2000: [DIM], 10_000: [DIM, OTHER_DIM]}
BLOCKS = 32


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four checkpoints, and a text."""
    root = tmp_path_factory.mktemp("place")
    for step, dims in FLAGGED.items():
        folder = save_stub(root / "run" / f"checkpoint-{step}", DIM if dims else None)
        if len(dims) > 1:
            model = AutoModelForMaskedLM.from_pretrained(folder)
            with torch.no_grad():
                for layer in model.bert.encoder.layer:
                    norm = layer.output.LayerNorm
                    norm.weight[OTHER_DIM], norm.bias[OTHER_DIM] = 0.1, 8.0
            model.save_pretrained(folder)
    for file in (root / "run").rglob("*"):
        os.utime(file, (1e9, 1e9))
    (root / "text.txt").write_text(zipf_text(12_000))
    return root


def run(place: Path, *arguments: str, store: str = "store") -> Result:
    known = [str(place / "run"), f"--store={place / store}", f"--text-blocks={BLOCKS}"]
    if not any(argument.startswith("--corpus=") for argument in arguments):
        known.append(f"--corpus={place / 'text.txt'}")
    return CliRunner().invoke(app, ["trace", *known, *arguments])


@pytest.fixture(scope="module")
def facts(place: Path) -> dict[str, Any]:
    result = run(place, "--measure=all", "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Text blocks of every pass through a model."""
    seen: list[int] = []
    usual = Execution.run

    def counted(self: Execution, chunk: Any, *arguments: Any, **more: Any) -> Any:
        seen.append(chunk.n_blocks)
        return usual(self, chunk, *arguments, **more)

    monkeypatch.setattr(Execution, "run", counted)
    return seen


# ---------------------------------------------------------------- the figures


@pytest.mark.parametrize("step", [0, 10_000])
def test_the_figures_are_those_of_a_plain_loop(
    place: Path, facts: dict[str, Any], step: int
) -> None:
    checkpoint = reference.load(place / "run" / f"checkpoint-{step}")
    texts = reference.read_corpus(str(place / "text.txt"), "packed")
    blocks = reference.text_blocks(texts, "packed", checkpoint.tokenizer, 128)
    fingerprint = reference.fingerprint(texts, "packed")
    label: dict[str, Any] = {"seed": 0, "corpus_fingerprint": fingerprint}
    order = reference.measurement_order(len(blocks), 0, fingerprint)[:BLOCKS]

    def nlls(*dims: int) -> list[tuple[float, int]]:
        return reference.nlls(checkpoint, blocks, order, dims, **label)

    intact = nlls()
    followed = [DIM, OTHER_DIM]
    found = next(one for one in facts["steps"] if one["step"] == step)["measured"]
    assert (found["text_blocks"], found["tokens"]) == (BLOCKS, sum(n for _, n in intact))
    assert found["figure"] == pytest.approx(math.exp(reference.log_perplexity(intact)), rel=1e-5)

    def ratio(*dims: int) -> float:
        changed = reference.log_perplexity(nlls(*dims)) - reference.log_perplexity(intact)
        return math.exp(changed)

    assert found["joint"]["dims"] == followed
    assert found["joint"]["ratio"] == pytest.approx(ratio(*followed), rel=1e-5)
    alone = {one["dims"][0]: one["ratio"] for one in found["alone"]}
    assert alone == {dim: pytest.approx(ratio(dim), rel=1e-5) for dim in followed}
    draws, _ = reference.control(
        checkpoint,
        blocks,
        order,
        followed,
        len(followed),
        intact,
        **label,
    )
    whole = sorted(draw.delta_nll / draw.tokens for draw in draws if draw.complete)
    assert found["random"]["draws"] == len(whole) >= 8
    middle = (whole[(len(whole) - 1) // 2] + whole[len(whole) // 2]) / 2
    assert found["random"]["median"] == pytest.approx(math.exp(middle), rel=1e-5)
    assert all(not set(draw.dims) & set(followed) for draw in draws)


def test_what_emerges_begins_to_matter_and_random_dimensions_do_not(facts: dict[str, Any]) -> None:
    before, _, after, last = (one["measured"] for one in facts["steps"])
    assert [one["dims"] for one in facts["steps"]] == list(FLAGGED.values())
    assert before["joint"]["ratio"] < 1.2 < 2 < after["joint"]["ratio"]
    assert last["alone"][0]["dims"] == [DIM]
    assert last["random"]["median"] < 1.2
    low, high = last["joint"]["interval"]
    assert low <= last["joint"]["ratio"] <= high
    interventions = facts["measurement"]
    assert interventions["dims"] == [DIM, OTHER_DIM]
    assert (interventions["text_blocks"], interventions["dtype"]) == (BLOCKS, "float32")


def test_scale_and_bias_are_followed_in_one_layer(place: Path, facts: dict[str, Any]) -> None:
    first = facts["dimensions"][0]
    assert (first["dim"], first["emerged"]) == (DIM, "checkpoint-2000")
    for place_in_run, step in enumerate(FLAGGED):
        model = AutoModelForMaskedLM.from_pretrained(place / "run" / f"checkpoint-{step}")
        for name, parameter in (("scale", "weight"), ("bias", "bias")):
            track = first[name]
            norm = model.bert.encoder.layer[track["layer"]].output.LayerNorm
            values = getattr(norm, parameter).detach().double()
            assert track["value"][place_in_run] == pytest.approx(float(values[DIM]))
            assert track["layer_mean"][place_in_run] == pytest.approx(float(values.mean()))
            assert track["layer_std"][place_in_run] == pytest.approx(float(values.std()))
            z = float((values[DIM] - values.mean()) / values.std())
            assert track["z"][place_in_run] == pytest.approx(z)
            lowest, highest = track["z_lowest"], track["z_highest"]
            assert lowest[place_in_run] <= z + 1e-9
            assert z <= highest[place_in_run] + 1e-9


def test_the_table_has_a_row_for_every_checkpoint(place: Path, facts: dict[str, Any]) -> None:
    result = run(place, "--measure=first,last")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    head = next(line for line in lines if line.startswith("checkpoint  "))
    columns = re.split(r" {2,}", head)
    assert columns == [
        "checkpoint", "perplexity", f"{DIM} off", f"{OTHER_DIM} off", "all off", "random off",
        "dimensions",
    ]  # fmt: skip
    rows = {
        parts[0]: parts[1:]
        for line in lines[lines.index(head) + 1 :][: len(FLAGGED)]
        if (parts := re.split(r" {2,}", line))
    }
    assert rows["checkpoint-100"] == ["-"] * 5 + ["none"]
    last = facts["steps"][-1]["measured"]
    assert rows["checkpoint-10000"][0] == f"{last['figure']:.4g}"
    assert rows["checkpoint-10000"][3] == f"x{last['joint']['ratio']:.4g}"
    assert rows["checkpoint-10000"][-1] == f"{DIM}, {OTHER_DIM}"
    assert f"{BLOCKS} text blocks of each" in result.stdout


def test_dimensions_that_are_not_flagged_can_be_followed(place: Path) -> None:
    result = run(place, "--measure=last", "--dims=3", "--json")
    found = json.loads(result.stdout)
    assert [one["dim"] for one in found["dimensions"]] == [DIM, OTHER_DIM, 3]
    assert not any(found["dimensions"][-1]["flagged"])
    *others, last = (one["measured"] for one in found["steps"])
    assert others == [None, None, None]
    assert (last["joint"]["dims"], last["alone"]) == ([3], [])
    assert set(found["measurement"]["never_drawn"]) == {3, DIM, OTHER_DIM}
    assert last["joint"]["ratio"] < 1.5
    for wrong, message in (("x", "names no dimensions"), (str(HIDDEN_SIZE), "there is no dimen")):
        refused = run(place, f"--dims={wrong}")
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_without_an_outlier_there_is_perplexity_alone(place: Path) -> None:
    store = f"--store={place / 'store'}"
    folder = str(place / "run" / "checkpoint-0")
    text = f"--corpus={place / 'text.txt'}"
    arguments = ["trace", folder, store, text, "--measure=all", "--text-blocks=16"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    found = json.loads(result.stdout)
    assert (found["dimensions"], found["measurement"]["dims"]) == ([], [])
    (only,) = (one["measured"] for one in found["steps"])
    assert only["figure"] < VOCABULARY
    assert (only["joint"], only["alone"], only["random"]) == (None, [], None)
    table = CliRunner().invoke(app, arguments)
    assert "no dimension was found that could be switched off" in table.stdout


# ---------------------------------------------------------------- the store


@pytest.mark.usefixtures("facts")
def test_a_second_run_measures_nothing(
    place: Path, facts: dict[str, Any], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("robustness.checkpoint.checkpoint.Checkpoint.load_model", refused)
    assert json.loads(run(place, "--measure=all", "--json").stdout) == facts
    assert passes == []


def test_an_interrupted_run_goes_on_where_it_was(
    place: Path, facts: dict[str, Any], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    different = len({tuple(dims) for dims in FLAGGED.values()})  # two have the same weights
    whole = different * (BLOCKS // 16) * 5  # chunks, under five interventions
    counted = Execution.run

    def interrupted(self: Execution, *arguments: Any, **more: Any) -> Any:
        if len(passes) == 17:
            raise KeyboardInterrupt
        return counted(self, *arguments, **more)

    with monkeypatch.context() as first:
        first.setattr(Execution, "run", interrupted)
        stopped = run(place, "--measure=all", "--json", store="resumed")
    assert stopped.exit_code not in (0, 2)
    assert stopped.stdout == ""
    assert len(passes) == 17
    assert json.loads(run(place, "--measure=all", "--json", store="resumed").stdout) == facts
    assert len(passes) == whole


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_loses_nothing_that_was_written(
    place: Path, facts: dict[str, Any]
) -> None:
    store = place / "killed"
    arguments = [str(place / "run"), f"--store={store}", f"--corpus={place / 'text.txt'}"]
    command = [*arguments, "--measure=all", f"--text-blocks={BLOCKS}", "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "robustness", "trace", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def records() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in store.glob("v1/*/??/*.json")}

    while process.poll() is None and len(records()) < 24:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = records()
    assert json.loads(run(place, "--measure=all", "--json", store="killed").stdout) == facts
    after = records()
    assert len(after) > len(before)
    assert all(after[path] == written for path, written in before.items())  # measured once


# ---------------------------------------------------------------- choices and refusals


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("all", (0, 1, 2, 3)),
        ("first", (0,)),
        ("last, first", (0, 3)),
        ("every:2", (0, 2)),
        ("every:3,last", (0, 3)),
        ("2k,10000", (2, 3)),
        ("0", (0,)),
    ],
)
def test_checkpoints_are_chosen_by_word_or_step(text: str, places: tuple[int, ...]) -> None:
    assert chosen([0, 100, 2000, 10_000], text) == places


@pytest.mark.parametrize(
    ("steps", "text", "message"),
    [
        ([0, 100], "200", "no checkpoint is named after step 200; the steps here are 0, 100"),
        ([None, None], "200", "say first, last, every:N or all"),
        ([0, 100], "every:0", "'every:0' chooses no checkpoint: say all"),
        ([0, 100], "-1", "chooses no checkpoint"),
        ([0, 100], " , ", "chooses no checkpoint"),
    ],
)
def test_what_chooses_nothing_is_refused(steps: list[int | None], text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        chosen(steps, text)


def test_a_checkpoint_that_cannot_be_measured_is_named_and_the_others_are_shown(
    place: Path, tmp_path: Path
) -> None:
    """One without its tokenizer, and one whose tokenizer cuts the text otherwise."""
    for name in ("checkpoint-1", "checkpoint-2", "checkpoint-3"):
        save_stub(tmp_path / name, DIM)
    (tmp_path / "checkpoint-2" / "tokenizer.json").unlink()
    (tmp_path / "checkpoint-2" / "tokenizer_config.json").unlink()
    tiny_tokenizer(VOCABULARY - 20).save_pretrained(tmp_path / "checkpoint-3")
    known = [f"--store={place / 'store'}", f"--corpus={place / 'text.txt'}", "--text-blocks=16"]
    arguments = ["trace", str(tmp_path), *known, "--measure=all"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 2
    first, second, third = json.loads(result.stdout)["steps"]
    assert (first["unmeasurable"], second["measured"], third["measured"]) == ("", None, None)
    assert first["measured"]["text_blocks"] == 16
    assert "tokenizer" in second["unmeasurable"]
    assert "cuts the text otherwise" in third["unmeasurable"]
    told = result.stderr.splitlines()
    assert [line.split()[1] for line in told] == ["checkpoint-2", "checkpoint-3"]


def test_mistakes_are_one_sentence(place: Path, tmp_path: Path) -> None:
    policy = tmp_path / "robustness.toml"
    policy.write_text('[checkpoints."*-100"]\nblock_size = 64\n')
    for arguments, message in (
        (["--measure=never"], "chooses no checkpoint"),
        (["--measure=all", "--text-blocks=-3"], "is no number of text blocks"),
        (["--measure=all", f"--corpus={tmp_path}/missing.txt"], "missing.txt"),
        (["--measure=all", f"--policy={policy}"], "are measured alike"),
    ):
        result = run(place, *arguments)
        assert result.exit_code == 2, arguments
        (line,) = result.stderr.splitlines()
        assert message in line
    assert "are for --measure" in run(place).stderr
