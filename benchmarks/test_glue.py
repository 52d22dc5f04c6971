"""The benchmark that fine-tunes and writes the paper's table, on a tiny model and tiny files."""

import importlib.util
import json
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file

from robustness.outliers.rules.settings import Rule
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model, tiny_tokenizer
from tests.support.plugin.plugin_support import run_python
from tests.support.records.task_stubs import HIDDEN_SIZE, VOCABULARY, classified, plant, sentences

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "glue.py"


def _data(root: Path) -> Path:
    rows = classified(96)
    sst2, stsb = root / "SST-2", root / "STS-B"
    for folder in (sst2, stsb):
        folder.mkdir(parents=True)
    for name in ("train-head.tsv", "dev.tsv"):
        lines = [f"{text} \t{label}" for text, label in rows]
        (sst2 / name).write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    texts = [" ".join(words) for words in sentences(96)]
    for name in ("train.tsv", "dev.tsv"):
        pairs = zip(texts, [*texts[1:], texts[0]], strict=True)
        lines = [f"{one}\t{two}\t{n % 6}.0" for n, (one, two) in enumerate(pairs)]
        (stsb / name).write_text("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n")
    return root


def _base(folder: Path) -> Path:
    model = tiny_model(
        "BertModel", vocab_size=VOCABULARY, hidden_size=HIDDEN_SIZE, max_position_embeddings=130
    )
    plant(model)
    return save_checkpoint(folder, model, tiny_tokenizer(VOCABULARY))


def _options(root: Path, *more: str) -> tuple[str, ...]:
    return (str(SCRIPT), f"--model={root / 'base'}", f"--data={root / 'glue'}", *more)


@pytest.mark.slow
def test_the_table_is_written_and_a_second_run_does_nothing_again(tmp_path: Path) -> None:
    _base(tmp_path / "base")
    _data(tmp_path / "glue")
    options = _options(
        tmp_path, "--tasks=sst2,stsb", "--epochs=1", "--limit=64", "--draws=3", "--out=out"
    )
    first = run_python(tmp_path, *options)
    assert first.ret == 0
    report = json.loads((tmp_path / "out" / "glue.json").read_text())
    table = (tmp_path / "out" / "glue.md").read_text()
    sst2, before, stsb = report["rows"]
    assert (sst2["metric"], stsb["metric"]) == ("accuracy", "spearman")
    assert sst2["dims"] == sst2["dims_before"] == [7]
    assert len(sst2["random"]) == 3
    assert sst2["train_examples"] == 64
    assert sst2["joint"] == sst2["alone"]["7"]
    low, high = sst2["joint_drop_95"]
    assert low <= sst2["intact"] - sst2["joint"] <= high
    assert 0.5 <= sst2["guess"] < 1
    assert (before["task"], before["train_examples"], before["guess"]) == ("stsb", 0, 0.0)
    assert before["intact"] != stsb["intact"]
    assert "Not comparable with published numbers: only 64 training examples" in table
    assert "| sst2 | accuracy (96) | 64 | 7 | 7 |" in table
    assert "| stsb, not fine-tuned | spearman (96) | - | 7 | 7 |" in table
    assert "sst2: step 2/2 (epoch 1.00 of 1)" in first.stderr.str()
    weights = tmp_path / "out" / "sst2" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = run_python(tmp_path, *options)
    assert again.ret == 0
    assert weights.stat().st_mtime_ns == written
    assert json.loads((tmp_path / "out" / "glue.json").read_text()) == report
    other = run_python(tmp_path, *options, "--learning-rate=1e-4")
    assert other.ret == 1
    assert "holds a training with other settings" in other.stderr.str()


@pytest.mark.slow
def test_models_are_scored_before_and_after_and_each_rule_says_what_stays(tmp_path: Path) -> None:
    """At so high a rate that scales and biases move."""
    _base(tmp_path / "base")
    _data(tmp_path / "glue")
    options = _options(
        tmp_path, "--tasks=stsb,sst2", "--epochs=4", "--draws=2", "--learning-rate=0.1", "--k=2"
    )
    more = ("--seeds=1,2", "--before-and-after", "--device=auto", "--out=out")
    assert run_python(tmp_path, *options, *more).ret == 0
    report = json.loads((tmp_path / "out" / "glue.json").read_text())
    rows, rules = report["rows"], report["rules"]
    assert [each["name"] for each in rules] == ["before", *_TRAININGS]
    assert all(set(each["dims"]) == set(get_args(Rule)) for each in rules)
    before = rules[0]["dims"]["busters"]
    moved = []
    for training, flagged in zip(_TRAININGS, rules[1:], strict=True):
        task, _, seed = training.partition("-seed")
        own = [row for row in rows if (row["task"], row["seed"]) == (task, int(seed or "1"))]
        after = flagged["dims"]["busters"]
        expected = [("head", "after", after), ("head", "before", before)]
        if task == "stsb":
            expected += [("cosine", "after", after), ("cosine", "before", before)]
        if after == before:
            expected = [each for each in expected if each[1] == "after"]
        assert [(row["asked"], row["whose"], row["dims"]) for row in own] == expected
        moved.append(after != before)
    assert any(moved)
    assert rows[0]["asked"] == "cosine"
    assert (rows[0]["train_examples"], rows[0]["seed"]) == (0, None)
    table = (tmp_path / "out" / "glue.md").read_text()
    assert "| rule | before | stsb | stsb-seed2 | sst2 | sst2-seed2 |" in table
    assert "| super-weight | cannot tell (" in table
    assert "| stsb, seed 2, by cosine |" in table
    assert "seeds 1, 2; outlier dimensions" in table


_TRAININGS = ("stsb", "stsb-seed2", "sst2", "sst2-seed2")


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    found = run_python(tmp_path, *_options(tmp_path, "--out=out"))  # there is no such folder
    assert found.ret == 1
    assert "Traceback" not in found.stderr.str()
    assert "There is no such folder" in found.stderr.str()


def _saved_steps(work: Path) -> list[int]:
    """Of the checkpoints that were written to their end."""
    found = []
    for state in work.glob("checkpoint-*/trainer_state.json"):
        with suppress(ValueError, OSError):
            found.append(int(json.loads(state.read_text())["global_step"]))
    return found


@pytest.mark.slow
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    """Killed between two saved steps, with a third one half written."""
    _base(tmp_path / "base")
    _data(tmp_path / "glue")
    options = _options(
        tmp_path, "--tasks=sst2", "--epochs=20", "--batch-size=8", "--save-every=10", "--draws=1"
    )
    whole = run_python(tmp_path, *options, "--out=whole")
    assert whole.ret == 0
    killed = subprocess.Popen([sys.executable, *options, "--out=killed"], cwd=tmp_path)
    work = tmp_path / "killed" / "sst2" / "training"
    deadline = time.monotonic() + 120
    while not _saved_steps(work):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    killed.kill()
    assert killed.wait() != 0
    assert not (tmp_path / "killed" / "sst2" / "model").exists()
    saved = max(_saved_steps(work))
    assert saved < 240
    half = work / f"checkpoint-{saved + 10}"
    half.mkdir(exist_ok=True)
    (half / "trainer_state.json").write_text('{"global_st')
    resumed = run_python(tmp_path, *options, "--out=killed")
    assert resumed.ret == 0
    said = [line for line in resumed.stderr.lines if "sst2: step " in line]
    assert int(said[0].partition("step ")[2].partition("/")[0]) == saved + 10
    first, second = (
        load_file(tmp_path / out / "sst2" / "model" / "model.safetensors")
        for out in ("whole", "killed")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_batches_hold_every_example_once_an_epoch_with_others_of_its_length() -> None:
    batches, recipe = _training("batches"), _training("Recipe")
    lengths = [3 + (n * 7919) % 61 for n in range(1000)]
    found = batches(lengths, recipe(epochs=2.5, batch_size=32, seed=1))
    assert len(found) == 80  # 2.5 times 32
    assert sorted(number for batch in found[:32] for number in batch) == list(range(1000))
    assert found[:32] != found[32:64]
    spans = [max(lengths[n] for n in batch) - min(lengths[n] for n in batch) for batch in found]
    assert sum(spans) / len(spans) < 4  # of 60
    first = [min(lengths[n] for n in batch) for batch in found[:32]]
    assert first != sorted(first)  # nor do they come in the order of length
    assert found == batches(lengths, recipe(epochs=2.5, batch_size=32, seed=1))
    assert found != batches(lengths, recipe(epochs=2.5, batch_size=32, seed=2))


def _training(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        "glue_training", SCRIPT.parent / "glue_training.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)
