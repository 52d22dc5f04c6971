"""Where a candidate leaves its reference, against plain loops; sentences that name the place."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.resolving import resolve
from robustness.policy.policy import load_policy
from robustness.reference import location
from robustness.reference.location import located
from robustness.statistics.location import (
    ENTERING,
    LayerChange,
    Location,
    StateChanges,
    numbered,
    percent,
)
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.measurement.test_architectures_end_to_end import make
from tests.support.checkpoints.checkpoint_folders import rewrite_weights
from tests.support.checkpoints.damage import (
    LAYER,
    Change,
    Weights,
    changed_copy,
    layers_from,
    noise,
    rows,
    scaled,
)
from tests.support.checkpoints.shared import shared_data, shared_model

__all__ = ["make"]  # a fixture
BLOCKS = 3


def disturbed(prefix: str) -> Change:
    """Noise on all tensors whose names begin like this."""

    def change(weights: Weights) -> None:
        generator = torch.Generator().manual_seed(1)
        for name in sorted(name for name in weights if name.startswith(prefix)):
            value = weights[name]
            weights[name] = value + 0.3 * torch.randn(value.shape, generator=generator)

    return change


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def sapiens(store: Path) -> Checkpoint:
    return resolve(str(shared_model("sapiens-roberta-vl")), cache=store)


def vetting_of(folder: Path, store: Path, **options: Any) -> Vetting:
    policy = load_policy(None, options={"corpus": str(shared_data("antibody-light.fa")), **options})
    return Vetting(
        checkpoint=resolve(str(folder), cache=store),
        settings=policy.settings(str(folder), "candidate"),
        context=Context(root=store),
    )


def damaged(sapiens: Checkpoint, change: Change, folder: Path) -> Vetting:
    return vetting_of(changed_copy(sapiens.folder, folder / "candidate", change), sapiens.cache)


def loaded(folder: Path) -> Any:
    from transformers import RobertaForMaskedLM

    cls: Any = RobertaForMaskedLM
    return cls.from_pretrained(folder, attn_implementation="eager").eval()


def nll_of(model: Any, row: Any) -> float:
    logits = model(input_ids=torch.from_numpy(row.ids)[None]).logits[0]
    likely = torch.log_softmax(logits.double(), dim=-1)
    return -float(sum(likely[p, t] for p, t in zip(row.positions, row.targets, strict=True)))


def hidden_of(model: Any, row: Any) -> list[torch.Tensor]:
    ids = torch.from_numpy(row.ids)[None]
    return list(model(input_ids=ids, output_hidden_states=True).hidden_states)


def replacing(module: nn.Module, value: torch.Tensor) -> Any:
    return module.register_forward_hook(
        lambda _, __, out: (value, *out[1:]) if isinstance(out, tuple) else value
    )


@torch.no_grad()
def plain_changes(candidate: Any, reference: Any, texts: list[Any]) -> dict[int, dict[str, float]]:
    """What the package reports, by whole hidden states and hooks that replace outputs."""
    tokens = sum(len(row.targets) for row in texts)
    layers = candidate.roberta.encoder.layer
    changes: dict[int, dict[str, float]] = {}
    for place in range(ENTERING, len(layers)):
        moved, whole, cosines, own, step, patched = [], [], [], [], [], 0.0
        for row in texts:
            h, r = hidden_of(candidate, row), hidden_of(reference, row)
            a, b = h[place + 1].double(), r[place + 1].double()
            moved.append(float((a - b).norm() ** 2))
            whole.append(float(b.norm() ** 2))
            cosines += torch.cosine_similarity(a, b, dim=-1).flatten().tolist()
            at = candidate.roberta.embeddings if place == ENTERING else layers[place]
            hook = replacing(at, r[place + 1])
            patched += nll_of(candidate, row)
            hook.remove()
            if place != ENTERING:
                out = layers[place](r[place])
                out = out[0] if isinstance(out, tuple) else out
                own.append(float((out.double() - b).norm() ** 2))
                step.append(float((b - r[place].double()).norm() ** 2))
        changes[place] = {
            "moved": (sum(moved) / sum(whole)) ** 0.5,
            "cosine": float(np.mean(cosines)),
            "patched_nats": patched / tokens,
        }
        if own:
            changes[place]["own"] = (sum(own) / sum(step)) ** 0.5
    return changes


def test_every_number_is_that_of_a_plain_loop(sapiens: Checkpoint, tmp_path: Path) -> None:
    vetting = damaged(sapiens, disturbed(f"{LAYER}2.output.dense"), tmp_path)
    states = located(vetting, sapiens, text_blocks=BLOCKS).states
    assert states is not None
    plan = vetting.measurement.scoring_plan
    texts = plan.rows(plan.order[:BLOCKS].tolist())
    candidate, reference = loaded(vetting.checkpoint.folder), loaded(sapiens.folder)
    expected = plain_changes(candidate, reference, texts)
    for change in states.layers:
        found = change.model_dump(exclude_none=True, exclude={"layer"})
        assert found == pytest.approx(expected[change.layer], rel=1e-3, abs=1e-6)
    with torch.no_grad():
        nats = [sum(nll_of(model, row) for row in texts) for model in (candidate, reference)]
    assert states.tokens == sum(len(row.targets) for row in texts)
    found_nats = [states.candidate_nats * states.tokens, states.reference_nats * states.tokens]
    assert found_nats == pytest.approx(nats, rel=1e-5)
    assert (states.first, states.harmful) == (2, (2, 2))
    assert states.found == "most of it from layer 2"


SENTENCES: dict[str, tuple[Change, str]] = {
    "layers": (
        layers_from({1: 2, 2: 1}),
        "most of it from layers 1 and 2: layers 1 and 2 hold each other's weights",
    ),
    "rows": (rows([10, 11], [11, 10]), "most of it from the head: rows 10 and 11 of"),
    "entry": (
        scaled(f"{LAYER}1.output.LayerNorm.weight", [5], 10),
        "most of it from layer 1: norm scale 5 of output.LayerNorm is 10 times the reference's",
    ),
    "noise": (noise(0.01), "73 of 74 tensors differ, most of all "),
    "nan": (
        scaled(f"{LAYER}1.output.dense.weight", [3], float("nan")),
        "layer 1 is the first that stands out: 256 entries of output.dense.weight are not finite",
    ),
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_a_sentence_names_place_and_reason(kind: str, sapiens: Checkpoint, tmp_path: Path) -> None:
    change, words = SENTENCES[kind]
    found = located(damaged(sapiens, change, tmp_path), sapiens)
    assert found.sentence.startswith(words)
    if kind != "nan":  # whose outlier dimensions cannot be found, but its layers can
        assert found.notes == ()
    assert Location.model_validate_json(found.model_dump_json()).sentence == found.sentence


@pytest.mark.parametrize(
    ("architecture", "stack"),
    [
        ("gpt2", "auto"),
        ("llama", "auto"),
        ("deberta-v2", "auto"),
        ("xlnet", "auto"),
        ("bart", "auto"),
        ("bart", "encoder"),
        ("t5", "auto"),
        ("t5", "encoder"),
    ],
)
def test_the_damaged_layer_of_any_stack_is_named(
    architecture: str, stack: str, make: Any, tmp_path: Path
) -> None:
    intact: Vetting = make(architecture, stack=stack)
    reference = intact.checkpoint
    folder = shutil.copytree(reference.folder, tmp_path / "damaged" / architecture)
    prefix = intact.model_profile.anatomy.stack.layers[1].layer_module
    names: list[str] = []

    def change(weights: Weights) -> None:
        names.extend(name for name in weights if name.startswith(f"{prefix}."))
        disturbed(f"{prefix}.")(weights)

    rewrite_weights(folder, change)
    assert names
    candidate = vetting_of(
        folder, tmp_path / "store", corpus=intact.settings.corpus, block_size=24, stack=stack,
        rules={"busters": {"k": 1.0}},
    )  # fmt: skip
    found = located(candidate, reference, every_layer=True)
    assert found.notes == ()
    states = found.states
    assert states is not None
    assert states.first == 1
    own = {change.layer: change.own for change in states.layers if change.own is not None}
    assert own[1] > 0.05
    others = [value for layer, value in own.items() if layer != 1]
    assert others == pytest.approx([0.0] * len(others), abs=1e-6)
    nats = {change.layer: change.patched_nats for change in states.layers}
    for layer, value in nats.items():
        whole = states.reference_nats if layer >= 1 else states.candidate_nats
        assert value == pytest.approx(whole, rel=1e-5)
    moved = {change.layer: change.moved for change in states.layers}
    assert moved[0] == moved[ENTERING] == 0 < moved[1]


def test_layers_that_hand_on_more_are_compared_and_not_patched(make: Any, tmp_path: Path) -> None:
    intact: Vetting = make("xlm")
    folder = shutil.copytree(intact.checkpoint.folder, tmp_path / "damaged")
    rewrite_weights(folder, disturbed("transformer.ffns.1."))
    candidate = vetting_of(
        folder, tmp_path / "store", corpus=intact.settings.corpus, block_size=24,
        rules={"busters": {"k": 1.0}},
    )  # fmt: skip
    states = located(candidate, intact.checkpoint).states
    assert states is not None
    assert {change.patched_nats for change in states.layers} == {None}
    assert states.harmful is None
    assert states.found == ""


def test_what_was_found_once_is_remembered(
    sapiens: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vetting = damaged(sapiens, disturbed(f"{LAYER}0."), tmp_path)
    once = located(vetting, sapiens, text_blocks=BLOCKS)
    assert once.states is not None
    monkeypatch.setattr(Checkpoint, "load_model", None)
    monkeypatch.setattr(location, "weight_changes", None)
    assert located(vetting, sapiens, text_blocks=BLOCKS) == once


def test_the_same_checkpoint_needs_no_look(sapiens: Checkpoint) -> None:
    found = located(vetting_of(sapiens.folder, sapiens.cache), sapiens)
    assert found == Location(same=True)
    assert found.sentence == "the candidate is the reference, bit by bit"


def test_what_cannot_be_found_out_hides_nothing(
    sapiens: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vetting = damaged(sapiens, noise(0.03), tmp_path)
    monkeypatch.setattr(location, "weight_changes", lambda *_, **__: 1 / 0)
    found = located(vetting, sapiens, text_blocks=BLOCKS)
    assert found.weights is None
    assert found.states is not None
    assert found.notes == ("ZeroDivisionError: division by zero",)
    other = resolve(str(shared_model("rxnfp-bert-mlm")), cache=sapiens.cache)
    notes = located(vetting, other).notes
    assert notes[1] == (
        "hidden states cannot be compared: the candidate has 4 layers of 128 features, the "
        "reference 12 layers of 256 features"
    )


def changes(candidate: float, reference: float, *patched: float) -> StateChanges:
    return StateChanges(
        text_blocks=8,
        tokens=100,
        candidate_nats=candidate,
        reference_nats=reference,
        layers=tuple(
            LayerChange(layer=n, moved=0.0, cosine=1.0, own=0.1, patched_nats=nats)
            for n, nats in enumerate(patched, ENTERING)
        ),
    )


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (changes(2.0, 1.0, 1.0, 1.0, 1.0, 1.0), "most of it from the embedding"),
        (changes(2.0, 1.0, 2.0, 2.0, 2.0, 2.0), "most of it from the head"),
        (changes(2.0, 1.0, 2.0, 1.1, 1.0, 1.0), "most of it from layer 0"),
        (changes(2.0, 1.0, 2.0, 2.0, 1.5, 1.0), "most of it from layers 1 and 2"),
        (changes(2.0, 1.0, 1.5, 1.0, 1.0, 1.0), "most of it from the embedding to layer 0"),
        (changes(2.0, 1.0, 1.8, 1.6, 1.3, 1.2), "it grows from layer to layer"),
        (changes(2.0, 1.0, 2.0, 3.0, 1.0, 1.0), "most of it from layers 0 and 1"),
        (changes(2.0, 1.0, 1.0, 2.0, 1.0, 1.0), "it grows from layer to layer"),
        (changes(1.0, 1.0, 1.0, 1.0, 1.0, 1.0), ""),
        (changes(0.9, 1.0, 0.9, 0.9, 1.0, 1.0), ""),
    ],
)
def test_harm_is_put_where_it_arises(states: StateChanges, words: str) -> None:
    assert states.found == words


def test_numbers_in_words() -> None:
    assert [numbered("layer", n) for n in ([3], [1, 2], [0, 1, 2], [0, 2, 5])] == [
        "layer 3",
        "layers 1 and 2",
        "layers 0 to 2",
        "layers 0, 2 and 5",
    ]
    assert [percent(s) for s in (0.35, 0.00012, 1.5, float("inf"))] == [
        "35 %",
        "0.012 %",
        "150 %",
        "inf",
    ]
