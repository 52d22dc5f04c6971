"""Adapters: merged into their base as a plain loop over their factors merges them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustness.checkpoint.conversions.adapters import Adapter
from robustness.checkpoint.reading import ReadOptions
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model, tiny_tokenizer

pytest.importorskip("peft")

RANK, ALPHA = 4, 6
LAYERS = "model.layers.{}.self_attn.{}_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    model = tiny_model("LlamaForCausalLM", tie_word_embeddings=True)
    return save_checkpoint(tmp_path / "base", model)


def factors(*modules: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"A": (RANK, 16), "B": (16, RANK)}
    return {
        f"{module}.lora_{which}.weight": torch.randn(shape, generator=generator)
        for module in modules
        for which, shape in shapes.items()
    }


QUERIES = [LAYERS.format(layer, "q") for layer in range(2)]


def adapter(
    folder: Path, tensors: Mapping[str, torch.Tensor] | None = None, **settings: Any
) -> Path:
    """An adapter as peft saves it, written without peft."""
    folder.mkdir()
    given = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["q_proj"]}
    given |= {"base_model_name_or_path": "../base", "task_type": None, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(given))
    stored = factors(*QUERIES) if tensors is None else tensors
    save_file(
        {f"base_model.model.{name}": value for name, value in stored.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def weights(folder: Path, **options: Any) -> tuple[dict[str, torch.Tensor], Any]:
    checkpoint = resolve(str(folder), cache=folder.parent / "store", options=ReadOptions(**options))
    return dict(checkpoint.load_model().state_dict()), checkpoint


def test_low_rank_factors_are_added_to_the_weights_and_nothing_else_changes(base: Path) -> None:
    found, checkpoint = weights(adapter(base.parent / "lora"))
    expected, plain = weights(base)
    tensors = factors(*QUERIES)
    for module in QUERIES:
        a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        weight = expected[f"{module}.weight"].double()
        for row in range(16):
            for column in range(16):
                product = sum(float(b[row, k]) * float(a[k, column]) for k in range(RANK))
                weight[row, column] += product * ALPHA / RANK
        expected[f"{module}.weight"] = weight.float()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-6, atol=1e-6), name
    assert "an adapter (sha256:" in str(checkpoint.note)
    assert "base at sha256:" in str(checkpoint.note)
    assert checkpoint.weights_hash != plain.weights_hash
    assert checkpoint.tokenizer_hash == plain.tokenizer_hash


def as_pickle(folder: Path, **more: Any) -> Path:
    """An adapter as peft saved it by default until its version 0.7."""
    safe = folder / "adapter_model.safetensors"
    torch.save({**load_file(safe), **more}, folder / "adapter_model.bin")
    safe.unlink()
    return folder


def test_pickled_factors_are_read_where_that_is_allowed(base: Path) -> None:
    folder = as_pickle(adapter(base.parent / "pickled"))
    with pytest.raises(CheckpointError, match=r"\(adapter_model\.bin\).*--robustness-allow-pickle"):
        weights(folder)
    found, checkpoint = weights(folder, allow_pickle=True)
    plain, _ = weights(adapter(base.parent / "plain"))
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert "base at sha256:" in str(checkpoint.note)
    assert "the adapter's weights are pickled, and were converted" in str(checkpoint.note)


@pytest.mark.slow
def test_a_pickled_adapter_that_holds_more_than_tensors_is_refused(base: Path) -> None:
    folder = as_pickle(adapter(base.parent / "pickled"), more=Path("/"))
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin cannot be read .*asks for path"):
        weights(folder, allow_pickle=True)


def test_settings_that_name_modules_to_import_are_not_passed_on(base: Path) -> None:
    named: dict[str, Any] = {
        "auto_mapping": {"parent_library": "antigravity"},
        "megatron_core": "antigravity",
    }
    folder = adapter(base.parent / "lora", **named)
    read = Adapter.read(folder, folder / "adapter_model.safetensors", what="lora")
    assert not {*named} & {*read.settings}
    found, _ = weights(folder)
    plain, _ = weights(adapter(base.parent / "plain"))
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_another_adapter_and_another_base_are_other_weights(base: Path) -> None:
    first = weights(adapter(base.parent / "one"))[1].weights_hash
    again = weights(adapter(base.parent / "two"))[1].weights_hash
    less = {name: value / 2 for name, value in factors(*QUERIES).items()}
    other = weights(adapter(base.parent / "three", less))[1].weights_hash
    assert first == again != other
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert weights(base.parent / "one")[1].weights_hash not in (first, other)


def test_a_module_that_was_saved_whole_takes_the_place_of_the_base_models(base: Path) -> None:
    """Also where the base ties it to the embedding, which stays as it is."""
    head = torch.randn(32, 16, generator=torch.Generator().manual_seed(2))
    tensors = {**factors(*QUERIES), "lm_head.weight": head}
    found, _ = weights(adapter(base.parent / "saved", tensors, modules_to_save=["lm_head"]))
    assert torch.equal(found["lm_head.weight"], head)
    embedding = "model.embed_tokens.weight"
    assert torch.equal(found[embedding], weights(base)[0][embedding])


def test_added_tokens_and_the_adapters_own_tokenizer_are_taken(base: Path) -> None:
    rows = torch.randn(40, 16, generator=torch.Generator().manual_seed(3))
    tensors = {
        **factors(*QUERIES),
        "model.embed_tokens.weight": rows,
        "lm_head.weight": rows.clone(),
    }
    folder = adapter(base.parent / "longer", tensors, modules_to_save=["embed_tokens", "lm_head"])
    tiny_tokenizer(40).save_pretrained(folder)
    found, checkpoint = weights(folder)
    assert torch.equal(found["model.embed_tokens.weight"], rows)
    assert checkpoint.vocab_size == 40


def test_a_classifiers_head_comes_with_the_adapter(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base")
    module = "bert.encoder.layer.0.attention.self.query"
    head = {"classifier.weight": torch.ones(3, 16), "classifier.bias": torch.zeros(3)}
    pooler = {
        "bert.pooler.dense.weight": torch.ones(16, 16),
        "bert.pooler.dense.bias": torch.ones(16),
    }
    folder = adapter(
        tmp_path / "classes",
        {**factors(module), **head, **pooler},
        target_modules=[module],
        task_type="SEQ_CLS",
        modules_to_save=["classifier", "pooler"],
    )
    checkpoint = resolve(str(folder), cache=tmp_path / "store", task="auto")
    model = checkpoint.load_model()
    assert checkpoint.architecture == "BertForSequenceClassification"
    assert torch.equal(model.classifier.weight, head["classifier.weight"])


def test_the_base_can_be_named_and_a_missing_one_asks_for_it(base: Path) -> None:
    folder = adapter(base.parent / "lost", base_model_name_or_path="./gone")
    with pytest.raises(CheckpointError, match=r"'\./gone' of the adapter .* --robustness-base=REF"):
        weights(folder)
    named, _ = weights(folder, base=str(base))
    assert torch.equal(
        named[f"{QUERIES[0]}.weight"],
        weights(adapter(base.parent / "x"))[0][f"{QUERIES[0]}.weight"],
    )
    nameless = adapter(base.parent / "nameless", base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match=r"names no base model: .*--robustness-base=REF"):
        weights(nameless)
    itself = adapter(base.parent / "itself", base_model_name_or_path=".")
    with pytest.raises(CheckpointError, match="is itself an adapter"):
        weights(itself)


NAME = f"{QUERIES[0]}.lora_A.weight"


@pytest.mark.parametrize(
    ("tensors", "settings", "said"),
    [
        ({}, {"target_modules": ["nothing"]}, "'nothing'.* not found"),
        ({}, {"r": 0}, "positive integer"),
        (
            {},
            {"target_modules": ["q_proj", "k_proj"]},
            r"tensor of the adapter is missing.*k_proj",
        ),
        ({"nowhere.lora_A.weight": torch.ones(RANK, 16)}, {}, "has no place in .*nowhere"),
        ({NAME: torch.ones(RANK + 1, 16)}, {}, "size mismatch"),
        (dict.fromkeys(factors(*QUERIES), 0), {}, "changes nothing"),
        ({}, {"peft_type": "NONE"}, "cannot be loaded .*'NONE'"),
        ({}, {"peft_type": ["LORA"]}, "cannot be loaded"),
        ({}, {"setting_of_tomorrow": 3}, "'setting_of_tomorrow' .* update peft"),
        ({}, {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "Megatron"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    tensors: Mapping[str, Any], settings: dict[str, Any], said: str, base: Path
) -> None:
    zero = {
        name: torch.zeros_like(value)
        for name, value in factors(*QUERIES).items()
        if isinstance(tensors.get(name), int)
    }
    folder = adapter(base.parent / "odd", {**factors(*QUERIES), **tensors, **zero}, **settings)
    with pytest.raises(CheckpointError, match=said) as refusal:
        weights(folder)
    assert "\n" not in str(refusal.value)


def test_without_peft_the_extra_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=r"pip install 'pytest-robustness\[peft\]'"):
        weights(adapter(base.parent / "lora"))
