"""What the files alone tell: the pattern of every damage, and none of an innocent conversion."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.weights import read_tensors
from robustness.reference import tensors
from robustness.reference.weights import other_settings, weight_changes
from robustness.statistics.location import WeightChanges
from tests.support.checkpoints.checkpoint_folders import (
    TINY_GPT2,
    edit_config,
    rewrite_weights,
    save_checkpoint,
    tiny_model,
)
from tests.support.checkpoints.damage import (
    LAYER,
    WORDS,
    Change,
    Weights,
    as_dtype,
    both,
    changed_copy,
    each,
    exchanged,
    layers_from,
    noise,
    pruned,
    rows,
    scaled,
    to_bits,
    transposed,
    two_of_four,
)
from tests.support.checkpoints.shared import shared_model

NORM = "output.LayerNorm.weight"
VALUES = [f"{LAYER}3.attention.self.value.{leaf}" for leaf in ("weight", "bias")]

DAMAGE: dict[str, tuple[Change, tuple[str, ...]]] = {
    "swapped layers": (layers_from({1: 2, 2: 1}), ("layers 1 and 2 hold each other's weights",)),
    "swapped and disturbed": (
        both(layers_from({1: 2, 2: 1}), noise(0.01)),
        ("layers 1 and 2 hold each other's weights",),
    ),
    "swapped and rounded": (
        both(layers_from({1: 2, 2: 1}), to_bits(4)),
        (
            "layers 1 and 2 hold each other's weights",
            "all dense layers are rounded to about 4 bits per channel",
        ),
    ),
    "a repeated layer": (
        layers_from({3: 2}),
        ("layer 3 holds the weights of the reference's layer 2",),
    ),
    "moved layers": (
        layers_from({1: 0, 2: 1, 3: 2}),
        ("layers 1 to 3 hold the weights of the reference's layers 0 to 2",),
    ),
    "swapped rows": (
        rows([10, 11], [11, 10]),
        (f"rows 10 and 11 of {WORDS} hold each other's values",),
    ),
    "shifted rows": (
        rows(slice(5, 25), slice(4, 24)),
        (f"rows 5 to 24 of {WORDS} are shifted by +1",),
    ),
    "a repeated row": (
        rows([7], [9]),
        (f"row 7 of {WORDS} holds the values of the reference's row 9",),
    ),
    "a scaled norm entry": (
        scaled(f"{LAYER}1.{NORM}", [5], 10),
        ("norm scale 5 of output.LayerNorm is 10 times the reference's in layer 1",),
    ),
    "zeroed norm entries": (
        both(*(scaled(f"{LAYER}{layer}.{NORM}", [7, 9], 0) for layer in range(4))),
        ("norm scales 7 and 9 of output.LayerNorm are zero in layers 0 to 3",),
    ),
    "pruned": (pruned(1 / 3), ("33 % of the entries of all dense layers are zero",)),
    "pruned in fours": (
        two_of_four,
        ("50 % of the entries of all dense layers (two of every four) are zero",),
    ),
    "a zeroed head": (
        scaled(VALUES[0], slice(16, 32), 0),
        ("rows 16 to 31 (head 1) of attention.self.value.weight are zero in layer 3",),
    ),
    "dead attention": (
        each(lambda _: VALUES, torch.zeros_like),
        (
            "attention.self.value.weight is all zero in layer 3",
            "attention.self.value.bias is all zero in layer 3",
        ),
    ),
    "a matrix on its side": (
        transposed(f"{LAYER}1.attention.self.query.weight"),
        ("attention.self.query.weight is transposed in layer 1",),
    ),
    "swapped projections": (
        exchanged(f"{LAYER}1.attention.self.query.weight", f"{LAYER}1.attention.self.key.weight"),
        (
            "attention.self.key.weight and attention.self.query.weight hold each other's values "
            "in layer 1",
        ),
    ),
    "a flat norm": (
        each(lambda _: [f"{LAYER}2.{NORM}"], torch.ones_like),
        ("output.LayerNorm.weight has one value everywhere in layer 2",),
    ),
    "a halved tensor": (
        scaled(f"{LAYER}2.output.dense.weight", slice(None), 0.5),
        ("output.dense.weight is 0.5 times the reference's in layer 2",),
    ),
    "rounded to 4 bits": (
        to_bits(4),
        ("all dense layers are rounded to about 4 bits per channel",),
    ),
    "rounded to 3 bits": (
        to_bits(3, per_channel=False),
        ("all dense layers are rounded to about 3 bits per tensor",),
    ),
    "not a number": (
        scaled(f"{LAYER}1.output.dense.weight", [3], math.nan),
        ("256 entries of output.dense.weight are not finite in layer 1",),
    ),
}

INNOCENT: dict[str, tuple[Change, tuple[str, ...]]] = {
    "float16": (as_dtype(torch.float16), ()),  # whose values the reference's are
    "bfloat16": (
        as_dtype(torch.bfloat16),
        ("all that differs is how bfloat16 rounds the values",),
    ),
    "rounded to bfloat16": (
        as_dtype(torch.bfloat16, back=True),
        ("all that differs is how bfloat16 rounds the values",),
    ),
    "int8 per channel": (
        to_bits(8),
        ("all dense layers are rounded to about 8 bits per channel",),
    ),
    "noise of 1 %": (noise(0.01), ()),
    "noise of 10 %": (noise(0.1), ()),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def sapiens(store: Path) -> Checkpoint:
    return resolve(str(shared_model("sapiens-roberta-vl")), cache=store)


def compared_with(sapiens: Checkpoint, change: Change, folder: Path) -> WeightChanges:
    candidate = changed_copy(sapiens.folder, folder / "candidate", change)
    return weight_changes(resolve(str(candidate), cache=sapiens.cache), sapiens)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, sapiens: Checkpoint, tmp_path: Path) -> None:
    change, words = DAMAGE[kind]
    found = compared_with(sapiens, change, tmp_path)
    assert found.patterns == words
    assert found.found.startswith(words[0])
    assert WeightChanges.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize("kind", INNOCENT)
def test_no_pattern_is_claimed_for_what_harms_nothing(
    kind: str, sapiens: Checkpoint, tmp_path: Path
) -> None:
    change, precision = INNOCENT[kind]
    found = compared_with(sapiens, change, tmp_path)
    assert (found.patterns, found.settings, found.precision) == ((), (), precision)
    assert found.found.startswith(precision or ("no tensor differs", "73 of 74 tensors differ"))


def test_relative_changes_are_those_of_a_plain_loop_in_any_slices(
    sapiens: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = both(noise(0.02), scaled(WORDS, [3], 2), as_dtype(torch.bfloat16))
    whole = compared_with(sapiens, change, tmp_path / "whole")
    ours = load_file(tmp_path / "whole" / "candidate" / "model.safetensors")
    theirs = load_file(sapiens.folder / "model.safetensors")
    expected = {
        name: float(
            (ours[name].double() - theirs[name].double()).norm() / theirs[name].double().norm()
        )
        for name in ours
    }
    found = {each.name: each.relative for each in whole.largest}
    assert found == pytest.approx({name: value for name, value in expected.items() if value > 0})
    assert list(found.values()) == sorted(found.values(), reverse=True)
    monkeypatch.setattr(tensors, "SLICE", 1000)
    sliced = compared_with(sapiens, change, tmp_path / "sliced")
    assert {each.name: each.relative for each in sliced.largest} == pytest.approx(found, rel=1e-12)


def test_names_that_differ_by_a_prefix_are_paired(sapiens: Checkpoint, tmp_path: Path) -> None:
    bare = changed_copy(sapiens.folder, tmp_path / "bare", layers_from({1: 2, 2: 1}))
    weights = load_file(bare / "model.safetensors")
    renamed = {name.removeprefix("roberta."): value for name, value in weights.items()}
    (bare / "model.safetensors").unlink()
    save_file(renamed, bare / "model.safetensors", metadata={"format": "pt"})
    found = weight_changes(resolve(str(bare), cache=sapiens.cache), sapiens)
    assert (found.tensors, found.only_candidate, found.only_reference) == (74, (), ())
    assert found.patterns == ("layers 1 and 2 hold each other's weights",)


def test_a_head_that_is_stored_or_tied_is_the_same(tmp_path: Path) -> None:
    model = tiny_model("GPT2LMHeadModel", **TINY_GPT2)
    tied = save_checkpoint(tmp_path / "tied", model)
    stored = shutil.copytree(tied, tmp_path / "stored")
    rewrite_weights(
        stored, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()})
    )
    found = weight_changes(*(resolve(str(each), cache=tmp_path / "c") for each in (stored, tied)))
    assert (found.changed, found.only_candidate, found.only_reference) == (0, (), ())


def test_other_layers_and_settings_are_told(tmp_path: Path) -> None:
    three = save_checkpoint(tmp_path / "three", tiny_model(num_hidden_layers=3))
    two = save_checkpoint(tmp_path / "two", tiny_model(layer_norm_eps=1e-3))
    edit_config(two, hidden_dropout_prob=0.0)
    candidate, reference = (resolve(str(each), cache=tmp_path / "c") for each in (two, three))
    found = weight_changes(candidate, reference)
    assert "layer 2 is missing" in found.patterns
    assert "layer_norm_eps is 0.001, the reference's 1e-12" in found.settings
    assert "num_hidden_layers is 2, the reference's 3" in found.settings
    assert all(".layer.2." in name for name in found.only_reference)
    back = weight_changes(reference, candidate)
    assert "layer 2 is new" in back.patterns
    assert other_settings({"transformers_version": "1"}, {"transformers_version": "2"}) == ()
    assert other_settings({"n_inner": None}, {}) == ()


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ([f"{LAYER}{n}." for n in (2, 3)], "32 of 74 tensors differ (all in layers 2 and 3), most"),
        (
            [f"{LAYER}{n}.attention.self.query.weight" for n in (0, 1)],
            "2 of 74 tensors differ (attention.self.query.weight in layers 0 and 1), most of all ",
        ),
    ],
)
def test_few_tensors_are_named(
    prefix: list[str], words: str, sapiens: Checkpoint, tmp_path: Path
) -> None:
    def change(weights: Weights) -> None:
        mine = {n: v for n, v in weights.items() if n.startswith(tuple(prefix))}
        noise(0.05)(mine)
        weights.update(mine)

    found = compared_with(sapiens, change, tmp_path)
    assert found.patterns == ()
    assert found.found.startswith(words)


def test_another_tokenizer_is_told_where_nothing_else_is(
    sapiens: Checkpoint, tmp_path: Path
) -> None:
    folder = changed_copy(sapiens.folder, tmp_path / "candidate", lambda _: None)
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text())))
    found = weight_changes(resolve(str(folder), cache=sapiens.cache), sapiens)
    assert found.found == "no tensor differs, but the tokenizer does"


def test_rows_of_a_tensor_are_tensors(sapiens: Checkpoint) -> None:
    info = read_tensors(sapiens.folder)[WORDS]
    whole = tensors.slice_of(info, 0, 25)
    assert np.array_equal(tensors.slice_of(info, 3, 9), whole[3:9])
    at = np.array([0, 5, 3000])
    assert np.array_equal(tensors.entries(info, at), whole.ravel()[at])


def test_infinite_changes_survive_json(sapiens: Checkpoint, tmp_path: Path) -> None:
    change = scaled(f"{LAYER}0.{NORM}", [1], math.inf)
    found = compared_with(sapiens, change, tmp_path)
    assert found.largest[0].relative == math.inf
    assert json.loads(found.model_dump_json())["largest"][0]["relative"] == "inf"
    assert found.patterns == ("one entry of output.LayerNorm.weight is not finite in layer 0",)
