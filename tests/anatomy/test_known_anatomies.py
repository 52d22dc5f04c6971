"""Anatomies written down beforehand: what tracing finds, and only where it was tried."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from robustness.anatomy import site_weights as reading
from robustness.anatomy.known_anatomies import FOLDER, instantiate, known_layout
from robustness.checkpoint.weights import read_tensors
from robustness.errors import RobustnessError
from robustness.outliers.scanning import Scan, scan
from tests.support.checkpoints.anatomy_trials import CLASSES
from tests.support.checkpoints.checkpoint_folders import edit_config, tiny_model
from tests.support.checkpoints.shared import shared_model
from tests.support.checkpoints.write_anatomies import Seen, bases_of, text_of
from tests.support.plugin.plugin_support import scanned_lightly

VARIANTS = [(name, number) for name in CLASSES for number in range(len(CLASSES[name]))]
EVERY_TIME = {
    ("AlbertForMaskedLM", 0), ("BertForMaskedLM", 0), ("GPT2LMHeadModel", 0),
    ("LlamaForCausalLM", 0), ("OPTForCausalLM", 1),
}  # fmt: skip
SAMPLED = [
    pytest.param(*one, marks=[] if one in EVERY_TIME else [pytest.mark.slow]) for one in VARIANTS
]


def known(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_bytes())
    return data


def larger(name: str, variant: int) -> dict[str, Any]:
    """Settings of a size at which nothing was traced when the files were written."""
    sizes = known(name)["entries"][variant]["settings"]
    base = bases_of(name, CLASSES[name][variant])[2]
    scaled = {key: value * 2 for key, value in base.items() if "at_least" in sizes.get(key, {})}
    deep = {one["n_layers"]: 4 for one in known(name)["entries"][variant]["stacks"]}
    return {**base, **scaled, **deep}


def saved(folder: Path, name: str, settings: dict[str, Any]) -> Path:
    """A random checkpoint; its parameters differ from feature to feature and layer to layer."""
    cls = getattr(transformers, name)
    own = {k: v for k, v in settings.items() if k not in ("architectures", "model_type")}
    torch.manual_seed(0)
    model = cls(cls.config_class(**own))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known")
    return saved(folder / "bert", "BertForMaskedLM", larger("BertForMaskedLM", 0))


@pytest.fixture
def scratch(bert: Path, tmp_path: Path) -> Path:
    """One that a test may spoil."""
    folder = tmp_path / "bert"
    folder.mkdir()
    for file in bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def layout(folder: Path) -> dict[str, Any] | None:
    return known_layout(folder, read_tensors(folder), "auto")


def both_ways(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Scan | str, Scan | str]:
    """A scan without tracing, and one that traces."""

    def refuse(*_: object) -> None:
        raise AssertionError("it was traced")

    found: list[Scan | str] = []
    for name, instead in (("_traced", refuse), ("known_layout", lambda *_: None)):
        with monkeypatch.context() as patch:
            patch.setattr(reading, name, instead)
            found.append(scan(str(folder), label="x", store_root=store / name))
    return found[0], found[1]


def assert_same(first: Scan | str, second: Scan | str) -> None:
    assert isinstance(first, Scan)
    assert isinstance(second, Scan)
    assert first.to_dict(range(first.hidden_size)) == second.to_dict(range(first.hidden_size))
    np.testing.assert_array_equal(first.scale, second.scale)
    if first.bias is None or second.bias is None:
        assert first.bias is second.bias is None
    else:
        np.testing.assert_array_equal(first.bias, second.bias)


# ---------------------------------------------------------------- what is written down is true


def test_every_class_has_a_file_and_every_file_a_class() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == {*CLASSES}
    assert all(len(known(name)["entries"]) == len(CLASSES[name]) for name in CLASSES)


@pytest.mark.parametrize(("name", "variant"), SAMPLED)
def test_tracing_finds_the_same_anatomy_and_the_scan_the_same_numbers(
    name: str, variant: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stacks with all their sites, at a size that was not written down."""
    settings = larger(name, variant)
    folder = saved(tmp_path / "model", name, settings)
    found = layout(folder)
    assert found is not None
    expected = reading._traced(folder, read_tensors(folder), "auto", "it")
    assert found == expected
    assert_same(*both_ways(folder, tmp_path, monkeypatch))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_the_files_are_what_their_command_writes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == text_of(name)


def test_at_the_sizes_that_were_traced_it_comes_out_again() -> None:
    (entry,) = known("BertForMaskedLM")["entries"]
    for base in bases_of("BertForMaskedLM", {}):
        sizes = {
            **{k: r["default"] for k, r in entry["settings"].items() if "default" in r},
            **base,
        }
        assert [instantiate(stack, sizes) for stack in entry["stacks"]] == Seen(base).stacks


@pytest.mark.parametrize("name", ["rxnfp-bert-mlm", "rxnmapper-albert-mlm", "sapiens-roberta-vl"])
def test_real_checkpoints_are_known(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_same(*both_ways(shared_model(name), tmp_path, monkeypatch))


def test_older_names_of_parameters_are_known(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed(
        scratch,
        lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"),
    )
    first, second = both_ways(scratch, tmp_path, monkeypatch)
    assert_same(first, second)


def test_names_without_the_models_prefix_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first GPT-2 was published, with buffers that the class has no place for."""
    folder = saved(tmp_path / "gpt2", "GPT2LMHeadModel", larger("GPT2LMHeadModel", 0))
    renamed(folder, lambda name: name.removeprefix("transformer."))
    tensors = load_file(folder / "model.safetensors")
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 140, 140)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert_same(*both_ways(folder, tmp_path, monkeypatch))


def renamed(folder: Path, rename: Callable[[str], str]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {rename(name): value for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_the_other_precision_is_read_too(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = load_file(scratch / "model.safetensors")
    half = {name: value.to(torch.bfloat16) for name, value in tensors.items()}
    save_file(half, scratch / "model.safetensors", {"format": "pt"})
    edit_config(scratch, dtype="bfloat16")
    assert_same(*both_ways(scratch, tmp_path, monkeypatch))


# ---------------------------------------------------------------- what is not known is traced


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_act": "mish"},
        {"position_embedding_type": "relative_key"},
        {"layer_norm_eps": 0.1},
        {"layer_norm_eps": 0},
        {"hidden_dropout_prob": 1.5},
        {"add_cross_attention": True},
        {"quantization_config": {"quant_method": "gptq"}},
        {"auto_map": {}},
        {"a_setting_of_the_future": 1},
        {"model_type": "roberta"},
        {"is_decoder": 0},
        {"hidden_size": 128.0},
        {"hidden_size": True},
        {"hidden_size": "128"},
        {"vocab_size": "602"},
        {"vocab_size": 603},
        {"intermediate_size": 125},
        {"num_attention_heads": 3},
        {"num_attention_heads": 0},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 5},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1},
        {"pad_token_id": 10**6},
        {"pad_token_id": -1},
        {"architectures": []},
        {"architectures": "BertForMaskedLM"},
        {"architectures": [["BertForMaskedLM"]]},
        {"architectures": ["../known/BertForMaskedLM"]},
        {"architectures": ["BertForPreTraining"]},
        {"architectures": ["BertForEverything"]},
        {"architectures": ["B" * 300]},
        {"prefix": [[[]]]},
    ],
    ids=lambda settings: "-".join(f"{key}={value}"[:40] for key, value in settings.items()),
)
def test_other_settings_are_not_known(scratch: Path, settings: dict[str, Any]) -> None:
    assert layout(scratch) is not None
    edit_config(scratch, **settings)
    assert layout(scratch) is None


def test_a_setting_that_is_required_may_not_be_left_out(scratch: Path) -> None:
    for key in ("model_type", "architectures", "num_attention_heads", "hidden_size"):
        kept = (scratch / "config.json").read_text()
        edit_config(scratch, **{key: None})
        assert layout(scratch) is None, key
        (scratch / "config.json").write_text(kept)


LAYER = "bert.encoder.layer.2.output.LayerNorm.weight"


def test_other_tensors_are_not_known(bert: Path) -> None:
    tensors = read_tensors(bert)
    assert known_layout(bert, tensors, "auto") is not None
    wrong = replace(tensors[LAYER], shape=(64,))
    extra = replace(tensors[LAYER], name="bert.encoder.layer.4.output.LayerNorm.weight")
    adapter = replace(tensors[LAYER], name="bert.encoder.layer.2.output.adapter.weight")
    older = replace(tensors[LAYER], name=LAYER.replace("weight", "gamma"))
    less = {name: info for name, info in tensors.items() if name != LAYER}
    words = "bert.embeddings.word_embeddings.weight"
    no_words = {name: info for name, info in tensors.items() if name != words}
    for spoilt in (
        {**tensors, LAYER: wrong},
        {**tensors, extra.name: extra},
        {**tensors, adapter.name: adapter},
        {**tensors, older.name: older},
        less,
        {**less, older.name: older},
        no_words,
    ):
        assert known_layout(bert, spoilt, "auto") is None
    pooler = replace(tensors[LAYER], name="bert.pooler.dense.weight")
    assert known_layout(bert, {**tensors, pooler.name: pooler}, "auto") is not None


def test_a_spoilt_checkpoint_is_scanned_or_refused_as_before(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not known goes the other way, whatever comes of it."""
    edit_config(scratch, hidden_act="mish")
    found = scan(str(scratch), label="x", store_root=tmp_path / "store")
    monkeypatch.setattr(reading, "known_layout", lambda *_: None)
    assert_same(found, scan(str(scratch), label="x", store_root=tmp_path / "other"))
    edit_config(scratch, hidden_size=64)
    with pytest.raises(RobustnessError, match=r"does not match its config\.json"):
        scan(str(scratch), label="x", store_root=tmp_path / "store")


def test_another_schema_is_not_read(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("schema", "anatomy_schema"):
        data = {**known("BertForMaskedLM"), key: 0}
        (tmp_path / "BertForMaskedLM.json").write_text(json.dumps(data))
        monkeypatch.setattr("robustness.anatomy.known_anatomies.FOLDER", tmp_path)
        assert layout(scratch) is None


# ---------------------------------------------------------------- what it is for


def test_a_first_scan_imports_no_torch(bert: Path, tmp_path: Path) -> None:
    assert "busters" in scanned_lightly(str(bert), f"--store={tmp_path}")


def test_a_stack_that_there_is_not_is_refused_as_by_tracing(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(RobustnessError, match="'decoder' cannot be chosen"):
        scan(str(bert), label="x", stack="decoder", store_root=tmp_path)


def test_models_smaller_than_what_was_tried_are_traced(tmp_path: Path) -> None:
    tiny_model(hidden_size=16).save_pretrained(tmp_path / "tiny")
    assert layout(tmp_path / "tiny") is None
