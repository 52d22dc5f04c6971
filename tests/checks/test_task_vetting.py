"""Answers of every kind of task against plain loops: one text at a time, weights zeroed."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from robustness.ablation.interventions import FixedAblation, Intact, PerBlockAblation
from robustness.checkpoint.resolving import resolve
from robustness.checks.tasks.models import TaskModels
from robustness.errors import TaskError
from robustness.policy.policy import Policy
from robustness.run.planning import make_plan
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import (
    edit_config,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)
from tests.support.records.task_stubs import (
    DIM,
    HIDDEN_SIZE,
    VOCABULARY,
    save_classifier,
    save_encoder,
    sentences,
    share,
    write_classified,
)

N = 96


def _task(
    folder: Path, task: str, root: Path, *, metric: str = "auto", exhaustive: bool = True
) -> TaskModels:
    asked = {"data": task, "metric": metric}
    policy = Policy(options={"task": asked, "exhaustive": exhaustive})
    checkpoint = resolve(str(folder), cache=root, task="auto")
    settings = policy.settings(str(folder))
    return Vetting(checkpoint=checkpoint, settings=settings, context=Context(root=root)).task


def _write(file: Path, rows: Sequence[tuple[str, ...]], label: Callable[[int], float]) -> Path:
    lines = ["\t".join([*texts, str(label(n))]) for n, texts in enumerate(rows)]
    header = "a\ty" if len(rows[0]) == 1 else "a\tb\ty"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def _answers(task: TaskModels, intervention: Any) -> np.ndarray[Any, Any]:
    """In the order of the file."""
    measurement = task.task.measurement
    found = [measurement.chunk(index, intervention)[0] for index in range(measurement.n_chunks)]
    answers = np.concatenate(found)
    return answers[np.argsort(measurement.order)]


def _zeroed(model: Any, dims: Sequence[int]) -> Any:
    with torch.no_grad():
        for layer in (getattr(model, "bert", None) or model).encoder.layer:
            layer.output.LayerNorm.weight[list(dims)] = 0
            layer.output.LayerNorm.bias[list(dims)] = 0
    return model


def _load(name: str, folder: Path) -> Any:
    cls: Any = getattr(transformers, name)
    return cls.from_pretrained(folder).eval()


def _cosine(model: Any, texts: Sequence[str]) -> float:
    tokenizer = tiny_tokenizer(VOCABULARY)
    means = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            states = model(input_ids=ids).last_hidden_state[0].double()  # (T, D)
            means.append([math.fsum(column) / len(states) for column in states.T.tolist()])
    product = math.fsum(x * y for x, y in zip(*means, strict=True))
    norms = [math.sqrt(math.fsum(x * x for x in mean)) for mean in means]
    return product / (norms[0] * norms[1])


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    texts = sentences(2 * N, seed=4)
    return [
        (" ".join(one), " ".join(two)) for one, two in zip(texts[::2], texts[1::2], strict=True)
    ]


def _agreement(pair: tuple[str, ...]) -> float:
    one, two = (share(text.split()) for text in pair)
    return round(-abs(one - two) + random.Random(" ".join(pair)).gauss(0, 0.05), 3)


@dataclass(frozen=True, kw_only=True)
class Similar:
    """An encoder, its cosines by a plain loop, and pairs labelled with these, about."""

    folder: Path
    task: str
    cosines: list[float]
    labels: list[float]


@pytest.fixture(scope="module")
def similar(pairs: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Similar:
    root = tmp_path_factory.mktemp("similar")
    folder = save_encoder(root / "encoder")
    model, rng = _load("BertModel", folder), random.Random(8)
    cosines = [_cosine(model, pair) for pair in pairs]
    spread = float(np.std(cosines))
    labels = [round(cosine + rng.gauss(0, 0.2 * spread), 6) for cosine in cosines]
    file = _write(root / "pairs.tsv", pairs, labels.__getitem__)
    return Similar(folder=folder, task=f"{file}:a,b:y", cosines=cosines, labels=labels)


def test_similarities_and_their_correlation(
    similar: Similar, pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    task = _task(similar.folder, similar.task, tmp_path / "store")
    assert (task.task.planned.kind, task.task.planned.metric) == ("similarity", "spearman")
    model = _zeroed(_load("BertModel", similar.folder), [DIM])
    ablated = [_cosine(model, pair) for pair in pairs]
    intervention = FixedAblation(ablation=task.subject.ablation((DIM,)))
    for expected, asked in ((similar.cosines, Intact()), (ablated, intervention)):
        assert _answers(task, asked)[:, 0].tolist() == pytest.approx(expected, abs=1e-5)
    intact, without = (
        float(stats.spearmanr(similar.labels, cosines).statistic)
        for cosines in (similar.cosines, ablated)
    )
    assert abs(intact - without) > 1e-4
    verdict = task.ablate([DIM]).score_drops(by=0.2)
    assert verdict.details.task is not None
    assert verdict.outcome == "fail"
    assert verdict.exact
    assert verdict.measured == pytest.approx(intact - without, abs=2e-3)  # near ties may swap
    assert verdict.details.task.intact_score == pytest.approx(intact, abs=2e-3)
    assert task.intact().beats_a_guess()


def test_the_control_of_a_correlation_is_the_median_draw(tmp_path: Path) -> None:
    """Matthews' correlation: without its dimension, the classifier always names one class."""
    folder = save_classifier(tmp_path / "classifier", num_labels=2)
    file = write_classified(tmp_path / "t.tsv")
    reference = f"{file}:sentence:label"
    task = _task(folder, reference, tmp_path / "store", metric="matthews", exhaustive=False)
    verdict = task.ablate_random(1).score_holds(within=0.1)
    assert verdict
    assert verdict.details.draws is not None
    draws = verdict.details.draws.draws
    assert draws >= 64
    assert verdict.seen >= 32 * draws
    assert verdict.measured == 0
    joint = task.ablate([DIM])
    dropped = joint.score_drops(by=0.5)
    assert dropped
    assert dropped.details.task is not None
    assert dropped.details.task.ablated_score == 0
    factor = joint.matters_more_than_chance(factor=5.0)
    assert factor
    assert factor.details.task is not None
    assert factor.details.task.examples >= 32 * 128
    assert joint.score_holds(within=0.1).outcome == "fail"


def test_each_example_has_the_dimensions_of_its_own_draw(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", num_labels=3)
    texts = [(" ".join(words),) for words in sentences(32, seed=5)]
    file = _write(tmp_path / "t.tsv", texts, lambda n: n % 3)
    task = _task(folder, f"{file}:a:y", tmp_path / "store")
    like = task.subject.ablation((0,))
    dims = tuple((place, (place + 9) % HIDDEN_SIZE) for place in range(16))
    (found,) = task.task.measurement.chunk(0, PerBlockAblation(dims=dims, template=like))
    for place, example in enumerate(task.task.measurement.examples(0)):
        model = _zeroed(_load("BertForSequenceClassification", folder), dims[place])
        ids = torch.tensor([tiny_tokenizer(VOCABULARY)(texts[example][0])["input_ids"]])
        with torch.no_grad():
            expected = model(input_ids=ids).logits[0].tolist()
        assert found[place].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_regression_head_answers_numbers(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "regression", num_labels=1)
    file = _write(tmp_path / "pairs.tsv", pairs, lambda n: share(" ".join(pairs[n]).split()))
    task = _task(folder, f"{file}:a,b:y", tmp_path / "store")
    assert (task.task.planned.kind, task.task.planned.metric) == ("regression", "spearman")
    model, tokenizer = _load("BertForSequenceClassification", folder), tiny_tokenizer(VOCABULARY)
    found = _answers(task, Intact())
    for number in range(8):
        encoded = tokenizer(*pairs[number], return_tensors="pt")
        with torch.no_grad():
            (expected,) = model(**encoded).logits[0].tolist()
        assert found[number, 0] == pytest.approx(expected, abs=1e-5)
    assert task.ablate([DIM]).score_drops(by=0.5)


def test_the_mean_in_the_place_of_a_feature_is_that_of_the_tasks_texts(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier", num_labels=2)
    texts = [(" ".join(words),) for words in sentences(40, seed=6)]
    file = _write(tmp_path / "t.tsv", texts, lambda n: n % 2)
    task = _task(folder, f"{file}:a:y", tmp_path / "store")
    model, tokenizer = _load("BertForSequenceClassification", folder), tiny_tokenizer(VOCABULARY)
    encoded = [torch.tensor([tokenizer(text)["input_ids"]]) for (text,) in texts]
    means = []
    with torch.no_grad():
        for layer in (1, 2):
            seen = [
                model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0, :, DIM]
                for ids in encoded
            ]
            means.append(float(torch.cat(seen).double().mean()))
        for layer, mean in zip(model.bert.encoder.layer, means, strict=True):
            layer.output.LayerNorm.weight[DIM], layer.output.LayerNorm.bias[DIM] = 0, mean
        expected = [model(input_ids=ids).logits[0].tolist() for ids in encoded]
    found = _answers(task, FixedAblation(ablation=task.subject.ablation((DIM,), mode="mean")))
    assert found.ravel().tolist() == pytest.approx(np.ravel(expected).tolist(), abs=1e-5)


def test_a_decoder_needs_to_know_its_padding(tmp_path: Path) -> None:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
    model = tiny_model("GPT2ForSequenceClassification", vocab_size=VOCABULARY, **sizes)
    folder = save_checkpoint(tmp_path / "gpt2", model, tiny_tokenizer(VOCABULARY))
    texts = [(" ".join(words),) for words in sentences(32, seed=7)]
    file = _write(tmp_path / "t.tsv", texts, lambda n: n % 2)
    task = _task(folder, f"{file}:a:y", tmp_path / "store")
    loaded = _load("GPT2ForSequenceClassification", folder)
    found = _answers(task, Intact())
    for number in range(4):
        ids = torch.tensor([tiny_tokenizer(VOCABULARY)(texts[number][0])["input_ids"]])
        with torch.no_grad():
            expected = loaded(input_ids=ids).logits[0].tolist()
        assert found[number].tolist() == pytest.approx(expected, abs=1e-5)
    edit_config(folder, pad_token_id=None)
    with pytest.raises(TaskError, match="sets no pad_token_id"):
        _task(folder, f"{file}:a:y", tmp_path / "store")


def test_a_language_model_is_asked_for_perplexity_and_similarity(
    pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    model = tiny_model("BertForMaskedLM", vocab_size=VOCABULARY, max_position_embeddings=130)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            norm = layer.output.LayerNorm
            norm.weight += 0.01 * torch.arange(16) / 16
            norm.weight[3], norm.bias[3] = 9.0, 9.0
    folder = save_checkpoint(tmp_path / "lm", model, tiny_tokenizer(VOCABULARY))
    file = _write(tmp_path / "pairs.tsv", pairs, lambda n: _agreement(pairs[n]))
    text = tmp_path / "text.txt"
    text.write_text(" ".join(" ".join(pair) for pair in pairs) * 3)
    policy = Policy(options={"task": {"data": f"{file}:a,b:y"}, "corpus": str(text)})
    plan = make_plan([str(folder)], policy, Context(root=tmp_path / "store"))
    (planned,) = plan.checkpoints
    tests = [check.test for check in planned.checks]
    assert "test_joint_ablation_degrades" in tests
    assert tests.count("test_task_score_drops") == 1  # alone and together are the same
    assert plan.comparisons == 9
    assert planned.task is not None
    assert planned.task.checkpoint["architecture"] == "BertModel"
    again = type(plan).from_json(plan.to_json())
    assert again.checkpoints[0].task == planned.task
    assert again == plan
