"""A downstream task vetted end to end, beside predictions by a plain loop."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from robustness.checkpoint.resolving import resolve
from robustness.errors import NoLanguageModel, RobustnessError
from robustness.policy.policy import Policy
from robustness.report.conclusion import conclusion
from robustness.report.html.figures import degradations
from robustness.report.json_document import as_json, read_report
from robustness.report.markdown.card import eval_results
from robustness.report.markdown.card import section as card_section
from robustness.report.reporters import REPORTERS
from robustness.report.words import figure, number
from robustness.run.planning import make_plan
from robustness.store.context import Context
from tests.support.checkpoints.checkpoint_folders import (
    edit_config,
    edit_tensors,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)
from tests.support.plugin.plugin_support import (
    Run,
    checks,
    error_sentence,
    lasting,
    run_pytest,
    run_suite,
    text_of,
)
from tests.support.records import profiles
from tests.support.records.task_stubs import (
    DIM,
    VOCABULARY,
    classified,
    save_classifier,
    write_classified,
)

LABEL = "classifier"
TINY_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
TINY_BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}


@dataclass(frozen=True, kw_only=True)
class Stub:
    """A classifier, its task, and a store that tests share."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / LABEL

    @property
    def task(self) -> str:
        return f"{self.root}/task.tsv:sentence:label"

    @property
    def options(self) -> tuple[str, ...]:
        return (
            f"--model={self.model}",
            f"--robustness-task={self.task}",
            f"--robustness-store={self.root / 'store'}",
        )


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Stub:
    root = tmp_path_factory.mktemp("task")
    save_classifier(root / LABEL, num_labels=2)
    write_classified(root / "task.tsv")
    return Stub(root=root)


@pytest.fixture(scope="module")
def exhaustive(stub: Stub) -> Run:
    return run_suite(stub.root / "exhaustive", *stub.options, "--robustness-exhaustive")


def _name(test: str, suffix: str = "") -> str:
    return f"robustness/test_task.py::{test}[{LABEL}{suffix}]"


DROPS = _name("test_task_score_drops", f"-dim{DIM}")
CONTROL = _name("test_random_ablation_keeps_task_score", "-1random")


# --- an independent evaluation -------------------------------------------------------------------


@contextmanager
def _without(model: Any, dim: int) -> Iterator[None]:
    """By changing the weights: the paper's way, and nothing of this package's."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.LayerNorm.weight[dim] = 0
            layer.output.LayerNorm.bias[dim] = 0
    yield
    model.load_state_dict(before)


def _accuracy(folder: Path, rows: list[tuple[str, int]], dim: int | None = None) -> float:
    """One text at a time, without padding."""
    cls: Any = transformers.BertForSequenceClassification
    model = cls.from_pretrained(folder).eval()
    tokenizer = tiny_tokenizer(VOCABULARY)
    right = 0
    with torch.no_grad():
        for text, label in rows:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            if dim is None:
                logits = model(input_ids=ids).logits
            else:
                with _without(model, dim):
                    logits = model(input_ids=ids).logits
            right += int(logits[0, 1] > logits[0, 0]) == label
    return right / len(rows)


def test_drops_are_those_of_a_plain_loop(stub: Stub, exhaustive: Run) -> None:
    rows = classified()
    intact, ablated = _accuracy(stub.model, rows), _accuracy(stub.model, rows, DIM)
    assert intact - ablated > 0.2
    check = checks(exhaustive.facts)[DROPS]
    assert check["exact"]
    assert check["measured"] == pytest.approx(intact - ablated, abs=1e-12)
    assert (check["seen"], check["unit"]) == (len(rows), "examples")
    assert check["details"]["task"]["intact_score"] == pytest.approx(intact)
    assert check["details"]["task"]["ablated_score"] == pytest.approx(ablated)
    (checkpoint,) = exhaustive.facts["checkpoints"]
    assert checkpoint["task"] == {
        "name": "task.tsv",
        "reference": stub.task,
        "kind": "classification",
        "metric": "accuracy",
        "architecture": "BertForSequenceClassification",
        "examples": len(rows),
        "score": pytest.approx(intact),
        "score_examples": len(rows),
    }


# --- the run -------------------------------------------------------------------------------------


def test_a_classifier_is_vetted_through_its_task(exhaustive: Run) -> None:
    assert exhaustive.result.ret == 0
    assert exhaustive.verdicts == {
        f"robustness/test_weights.py::test_weights_are_finite[{LABEL}]": "pass",
        f"robustness/test_outliers.py::test_outliers_are_present[{LABEL}]": "pass",
        _name("test_task_is_learned"): "pass",
        DROPS: "pass",
        CONTROL: "pass",
        _name("test_outliers_matter_more_for_task", f"-dim{DIM}"): "pass",
    }
    assert exhaustive.facts["comparisons"] == 4
    assert exhaustive.facts["passed"]
    (checkpoint,) = exhaustive.facts["checkpoints"]
    assert checkpoint["intact"] is None
    assert checkpoint["corpus_text_blocks"] == 0
    text = text_of(exhaustive.result)
    assert "it has no language-model head, so there is no perplexity" in text
    assert "task task.tsv: 240 examples of classification, accuracy" in text
    assert f"accuracy without dimension {DIM}: " in text
    name = DROPS.partition("::")[2]
    assert exhaustive.properties[name]["verdict"] == "pass"
    assert float(exhaustive.properties[name]["measured"]) > 0.2
    assert exhaustive.properties[name]["examples"] == "240"


def test_its_report_is_read_by_all_that_read_reports(exhaustive: Run) -> None:
    """There is no perplexity, no corpus and no text block in it, and drops are no ratios."""
    report = read_report(exhaustive.folder / "report.json")
    (point,) = report.checkpoints
    assert point.task is not None
    assert point.task.score is not None
    assert degradations(point) == ()
    said = conclusion(point)
    drop = checks(exhaustive.facts)[DROPS]["measured"]
    assert f"without it, the accuracy on task.tsv falls by {number(drop)}" in said
    markdown = REPORTERS["markdown"].render(report)
    assert f"Its intact accuracy is {figure(point.task.score)} on" in markdown
    section = card_section(report, point, repo_id=None)
    assert "on the task task.tsv; accuracy" in section
    assert f"--robustness-task={point.task.reference}" in section
    for text in (said, markdown, section):
        assert "perplexity" not in text.replace("there is no perplexity", "")
        assert "corpus" not in text
    results = {each.metric_type: each for each in eval_results(report, point)}
    assert results["accuracy"].metric_value == point.task.score
    assert {each.dataset_name for each in results.values()} == {"task.tsv"}
    assert {each.task_type for each in results.values()} == {"text-classification"}
    assert "::error" not in REPORTERS["github"].render(report)


def test_its_report_becomes_a_page(exhaustive: Run) -> None:
    pytest.importorskip("plotly", reason="needs plotly (pip install 'pytest-robustness[html]')")
    page = REPORTERS["html"].render(read_report(exhaustive.folder / "report.json"))
    assert "<dt>intact accuracy</dt>" in page
    assert "<dt>text blocks</dt>" not in page
    assert "1 random" in page
    assert "<dt>corpus</dt>" not in page


@pytest.mark.slow
def test_verdicts_are_the_same_with_workers(stub: Stub, tmp_path: Path) -> None:
    def settled(run: Run) -> Any:
        return {n: (c["outcome"], c["seen"], c["measured"]) for n, c in run_checks(run).items()}

    def run_checks(run: Run) -> dict[str, dict[str, Any]]:
        return checks(run.facts)

    alone = run_suite(tmp_path / "alone", *stub.options)
    others = (f"--robustness-store={tmp_path / 'another'}", "-n", "2")
    assert settled(run_suite(tmp_path / "workers", *stub.options, *others)) == settled(alone)
    assert checks(alone.facts)[DROPS]["seen"] < 240  # it decided early
    again = run_suite(tmp_path / "again", *stub.options)
    assert lasting(again.facts) == lasting(alone.facts)


def test_other_thresholds_and_labels_measure_nothing(
    stub: Stub, exhaustive: Run, tmp_path: Path
) -> None:
    """The second run cannot load the model: its weights are gone from where they were."""
    assert exhaustive.result.ret == 0
    policy = tmp_path / "policy.toml"
    policy.write_text('[task]\nmetric = "f1"\n[checks.task_score_drops]\nmin_drop = 0.9\n')
    spy = tmp_path / "spy.py"
    spy.write_text(
        "import robustness.checkpoint.checkpoint as c\n"
        "def refuse(*args, **kwargs):\n    raise RuntimeError('a model was loaded')\n"
        "c.Checkpoint.load_model = refuse\n"
    )
    run = run_suite(
        tmp_path, *stub.options, "--robustness-exhaustive", f"--robustness-policy={policy}",
        "-p", "spy", "-k", "score_drops",
    )  # fmt: skip
    check = checks(run.facts)[DROPS]
    assert check["outcome"] == "fail"
    assert "lowers the f1 on task.tsv by at least 0.9" in check["statement"]
    assert run.facts["partial"]
    assert run.result.ret == 1


def test_the_hardened_profile_turns_it_round(stub: Stub, exhaustive: Run, tmp_path: Path) -> None:
    assert exhaustive.result.ret == 0
    run = run_suite(
        tmp_path, *stub.options, "--robustness-exhaustive", "--robustness-expectation=hardened"
    )
    assert run.verdicts[DROPS] == "fail"
    assert checks(run.facts)[DROPS]["passes"] == "below"
    factor = _name("test_outliers_matter_more_for_task", f"-dim{DIM}")
    assert run.verdicts[factor] == "not applicable"


@pytest.mark.slow
def test_shards_merge_to_the_same_verdicts(stub: Stub, exhaustive: Run, tmp_path: Path) -> None:
    for index in (1, 2):
        result = run_pytest(
            tmp_path, *stub.options, "--robustness-exhaustive",
            f"--robustness-shard={index}/2", f"--robustness-json={index}.json",
        )  # fmt: skip
        assert result.ret == 0
    from robustness.report.merge import merge, read_shard

    files = [tmp_path / f"{index}.json" for index in (1, 2)]
    merged = merge([read_shard(file) for file in files], list(map(str, files)))
    assert merged.passed
    facts = as_json(merged)
    assert facts["checkpoints"][0]["task"] == exhaustive.facts["checkpoints"][0]["task"]
    assert checks(facts) == checks(exhaustive.facts)


def test_a_task_without_an_outlier_has_nothing_to_ask(stub: Stub, tmp_path: Path) -> None:
    model = tiny_model(
        "BertForSequenceClassification", vocab_size=VOCABULARY, max_position_embeddings=130
    )
    folder = save_checkpoint(tmp_path / "plain", model, tiny_tokenizer(VOCABULARY))
    run = run_suite(
        tmp_path, f"--model={folder}", *stub.options[1:], f"--robustness-store={tmp_path / 's'}"
    )
    found = {name.partition("::")[2]: verdict for name, verdict in run.verdicts.items()}
    assert found["test_outliers_are_present[plain]"] == "fail"
    assert found["test_task_score_drops[plain-no-outliers]"] == "not applicable"
    assert found["test_task_is_learned[plain]"] == "fail"  # its head is random
    assert not any("perplexity" in name or "degrades" in name for name in found)


# --- what is refused -----------------------------------------------------------------------------


def test_without_a_task_the_error_names_the_way(stub: Stub, tmp_path: Path) -> None:
    result = run_pytest(tmp_path, stub.options[0], stub.options[2])
    assert "vet it through a task that it was made for (--robustness-task)" in error_sentence(
        result
    )


def _refused(folder: Path, task: str, root: Path, **settings: str) -> str:
    policy = Policy(options={"task": {"data": task, **settings}})
    with pytest.raises(RobustnessError) as caught:
        make_plan([str(folder)], policy, Context(root=root / "store"))
    return str(caught.value)


@pytest.mark.parametrize("model", ["BertModel", "BertForMaskedLM"])
def test_a_single_text_needs_a_head(model: str, stub: Stub, tmp_path: Path) -> None:
    built = tiny_model(model, vocab_size=VOCABULARY, max_position_embeddings=130)
    folder = save_checkpoint(tmp_path / "model", built, tiny_tokenizer(VOCABULARY))
    says = "no classification head, and a similarity needs two texts"
    assert says in _refused(folder, stub.task, tmp_path)
    says = "no classification head, so it cannot be asked for classification"
    assert says in _refused(folder, stub.task, tmp_path, kind="classification")


def test_a_missing_classification_head_is_never_drawn_at_random(stub: Stub, tmp_path: Path) -> None:
    """config.json promises a classifier, and the files hold an encoder."""
    built = tiny_model("BertModel", vocab_size=VOCABULARY, max_position_embeddings=130)
    folder = save_checkpoint(tmp_path / "model", built, tiny_tokenizer(VOCABULARY))
    edit_config(folder, architectures=["BertForSequenceClassification"])
    sentence = _refused(folder, stub.task, tmp_path)
    assert "lacks weights that BertForSequenceClassification needs (classifier" in sentence
    assert "fine-tuned for the task" in sentence


def test_labels_and_metrics_that_do_not_suit_the_head(stub: Stub, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "three", num_labels=3)
    assert "has 3; choose accuracy" in _refused(folder, stub.task, tmp_path, metric="f1")
    assert "does not suit classification" in _refused(folder, stub.task, tmp_path, metric="pearson")
    assert "its task is classification, not regression" in _refused(
        folder, stub.task, tmp_path, kind="regression"
    )
    several = save_classifier(tmp_path / "several", problem_type="multi_label_classification")
    assert "gives several labels to a text" in _refused(several, stub.task, tmp_path)
    one = save_classifier(tmp_path / "one", num_labels=2)
    same = tmp_path / "same.tsv"
    same.write_text("\n".join(["s\tl", *(f"w{n}\t1" for n in range(40))]))
    assert "all examples have the same label" in _refused(one, f"{same}:s:l", tmp_path)
    other = tmp_path / "other.tsv"
    other.write_text("\n".join(["s\tl", *(f"w{n}\t{n % 3}" for n in range(40))]))
    assert "the label '2' of example 3 is none" in _refused(one, f"{other}:s:l", tmp_path)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("BartForSequenceClassification", TINY_BART),
        ("BartForConditionalGeneration", TINY_BART),
        ("T5ForSequenceClassification", TINY_T5),
    ],
)
def test_an_encoder_and_a_decoder_together_are_refused_in_one_sentence(
    model: str, settings: dict[str, Any], stub: Stub, tmp_path: Path
) -> None:
    built = tiny_model(model, **{**settings, "vocab_size": VOCABULARY})
    folder = save_checkpoint(tmp_path / "model", built, tiny_tokenizer(VOCABULARY))
    sentence = _refused(folder, stub.task, tmp_path)
    assert "has an encoder and a decoder, and no task is supported for both together" in sentence
    assert "\n" not in sentence


def test_an_encoder_without_a_named_class_is_told_of_tasks(tmp_path: Path) -> None:
    built = tiny_model("BertModel", vocab_size=VOCABULARY)
    folder = save_checkpoint(tmp_path / "model", built, tiny_tokenizer(VOCABULARY))
    for change in ({}, {"architectures": None}):
        edit_config(folder, **change)
        with pytest.raises(NoLanguageModel, match=r"a task that it was made for \(--robustness-t"):
            resolve(str(folder), cache=tmp_path / "store")


@pytest.fixture(scope="module")
def forgetful(stub: Stub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the classifier that names the same class whatever it reads."""
    folder = tmp_path_factory.mktemp("forgetful") / LABEL
    shutil.copytree(stub.model, folder)

    def forget(tensors: dict[str, Any]) -> None:
        tensors["classifier.weight"] *= 0

    return edit_tensors(folder, forget)


def test_a_candidates_score_is_held_against_its_references(
    stub: Stub, forgetful: Path, tmp_path: Path
) -> None:
    options = (f"--model={forgetful}", *stub.options[1:], f"--reference={stub.model}")
    run = run_suite(tmp_path, *options)
    kept = f"robustness/test_reference.py::test_task_score_is_kept[{LABEL}]"
    assert run.verdicts[kept] == "fail"
    found = checks(run.facts)[kept]
    assert found["measure"] == "drop"
    task = found["details"]["task"]
    assert found["measured"] == pytest.approx(task["intact_score"] - task["ablated_score"])
    assert task["intact_score"] > 0.8
    assert "is less than 0.01 lower than the reference's" in found["statement"]


def test_a_saved_profile_has_no_answers(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(profiles.profile(profiles.entry()).to_dict()))
    refused = run_pytest(tmp_path, *stub.options, "--robustness-baseline=b.json")
    assert "it holds perplexities, and classifier has none" in error_sentence(refused)
    refused = run_pytest(tmp_path, *stub.options, "--robustness-save-baseline=c.json")
    assert "a profile is made of perplexities" in error_sentence(refused)


def test_the_task_may_stand_in_the_policy(stub: Stub, tmp_path: Path) -> None:
    shutil.copy(stub.root / "task.tsv", tmp_path / "t.tsv")
    (tmp_path / "robustness.toml").write_text(
        '[task]\ndata = "t.tsv:sentence:label"\nmetric = "matthews"\n'
    )
    result = run_pytest(tmp_path, stub.options[0], stub.options[2], "--robustness-plan")
    assert result.ret == 0
    assert "task t.tsv: 240 examples of classification, matthews" in text_of(result)
    assert f"test_task_score_drops[{LABEL}-dim{DIM}]: dimension {DIM}" in text_of(result)
