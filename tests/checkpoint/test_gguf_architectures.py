"""What is read from a GGUF file is the model it was written from, whatever its settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from robustness.anatomy.site_weights import site_weights
from robustness.checkpoint.gguf.architectures import ARCHITECTURES
from robustness.checkpoint.gguf.conversion import write_model
from robustness.checkpoint.gguf.header import read_gguf_header
from robustness.checkpoint.gguf.model import GgufModel
from robustness.checkpoint.loading import loading_errors
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from robustness.store.context import Context
from tests.support.checkpoints.gguf_files import write_gguf
from tests.support.checkpoints.gguf_models import MODELS
from tests.support.llama_cpp_models import COMPARED, IDS, kept, of_models


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = model(IDS).logits
    return values


def read(file: Path, folder: Path) -> Any:
    write_model(GgufModel.of(file, read_gguf_header(file)), folder)
    auto: Any = transformers.AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


def test_there_is_a_model_of_every_architecture() -> None:
    assert {written.architecture for written in MODELS.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", MODELS)
def test_the_model_read_is_the_model_written(name: str, tmp_path: Path) -> None:
    written = MODELS[name]
    model = written.model()
    file = write_gguf(
        tmp_path / "m.gguf", written.architecture, model, written.keys, written.tensors
    )
    again = read(file, tmp_path / "folder")
    assert type(again) is type(model)
    expected = logits_of(model)
    difference = (logits_of(again) - expected).abs().max() / expected.abs().max()
    assert difference < 5e-6, difference


@pytest.mark.parametrize("name", COMPARED)
def test_llama_cpp_finds_the_likelihoods_that_transformers_finds(name: str) -> None:
    """An independent reader of the settings; it looks GELU up in a table of half precision."""
    with torch.no_grad():
        logits = COMPARED[name].model()(IDS).logits[:, :-1].double()
    nll = cross_entropy(logits.transpose(1, 2), IDS[:, 1:], reduction="none").sum(1)
    assert nll.tolist() == pytest.approx(kept()["nll_nats"][name], rel=5e-5)


@pytest.mark.slow
def test_llama_cpp_still_finds_what_is_kept() -> None:
    """``tox -e verify``: where it is installed, of the version that is kept."""
    library = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python (tox -e verify)")
    assert library.__version__ == kept()["llama_cpp_python"]
    again = of_models()
    assert again.keys() == kept()["nll_nats"].keys()
    for name, nats in again.items():
        assert nats == pytest.approx(kept()["nll_nats"][name], rel=1e-6), name


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("llama", {"attention.unheard_of": 2}, {}, r"llama\.attention\.unheard_of to 2"),
    ("llama", {"attention.causal": False}, {}, r"llama\.attention\.causal"),
    ("llama", {"final_logit_softcapping": 30.0}, {}, r"llama\.final_logit_softcapping"),
    ("llama", {"attention.scale": 0.1}, {}, r"llama\.attention\.scale"),
    ("llama", {"attention.value_length": 8}, {}, r"llama\.attention\.value_length"),
    ("llama", {"attention.layer_norm_rms_epsilon": float("nan")}, {}, "no such number"),
    ("llama", {"attention.layer_norm_rms_epsilon": None}, {}, "lacks the setting"),
    ("llama", {"attention.head_count": None}, {}, r"lacks the setting llama\.attention"),
    ("llama", {"attention.head_count": "four"}, {}, "no such number|cannot be loaded"),
    ("llama", {"attention.head_count_kv": [2, 2, 4, 4]}, {}, "no such number"),
    ("llama", {"block_count": 2**31}, {}, "but has tensors of 4 layers"),
    ("llama", {"block_count": 3}, {}, "but has tensors of 4 layers"),
    ("llama", {"feed_forward_length": 95}, {}, "has the shape"),
    ("llama", {"rope.dimension_count": 8}, {}, "but transformers turns 16 features"),
    ("llama", {"rope.scaling.type": "longrope"}, {}, r"rope\.scaling\.type to 'longrope'"),
    ("llama", {"rope.scaling.type": "novel"}, {}, r"rope\.scaling\.type to 'novel'"),
    ("llama", {"rope.scaling.attn_factor": 2.0}, {}, r"rope\.scaling\.attn_factor"),
    ("llama", {}, {"rope_freqs.weight": np.ones(5)}, "frequency factors for 16 features"),
    ("llama", {}, {"rope_freqs.weight": np.zeros(8)}, "frequency factors for 16 features"),
    ("llama", {}, {"blk.1.attn_q.scale": np.ones(1)}, r"no place for \(blk\.1\.attn_q\.scale\)"),
    ("llama", {}, {"blk.1.attn_norm.weight": None}, "lacks weights .*input_layernorm"),
    ("qwen2", {"attention.sliding_window": 7}, {}, r"qwen2\.attention\.sliding_window to 7"),
    ("qwen2", {}, {"blk.1.attn_q.bias": None}, "lacks weights .*q_proj.bias"),
    ("gemma2", {"rope.freq_base_swa": 500.0}, {}, r"gemma2\.rope\.freq_base_swa"),
    ("granite", {"logit_scale": None}, {}, r"lacks the setting granite\.logit_scale"),
    ("granite", {"rope.scaling.finetuned": False}, {}, r"granite\.rope\.scaling\.finetuned"),
]


@pytest.mark.parametrize(("name", "keys", "tensors", "said"), REFUSED)
def test_what_cannot_be_obeyed_is_refused_by_its_name(
    name: str, keys: dict[str, Any], tensors: dict[str, Any], said: str, tmp_path: Path
) -> None:
    written = MODELS[name]
    keys, tensors = {**written.keys, **keys}, {**written.tensors, **tensors}
    file = write_gguf(tmp_path / "m.gguf", written.architecture, written.model(), keys, tensors)
    with pytest.raises(CheckpointError, match=said) as caught, loading_errors(str(file)):
        read(file, tmp_path)
    assert "\n" not in str(caught.value)


def test_settings_without_effect_are_accepted(tmp_path: Path) -> None:
    written = MODELS["llama"]
    keys = {
        "attention.causal": True,
        "expert_count": 0,
        "expert_used_count": 0,
        "rope.dimension_count": 16,
        "rope.scaling.type": "none",
        "rope.scaling.factor": 8.0,
        "attention.head_count_kv": [2, 2, 2, 2],
        "tensor_data_layout": "Meta AI original pth",
    }
    model = written.model()
    file = write_gguf(tmp_path / "m.gguf", "llama", model, keys)
    assert torch.equal(logits_of(read(file, tmp_path / "folder")), logits_of(model))


def test_biases_that_no_layer_has_are_none(tmp_path: Path) -> None:
    """Models made into Llamas or Qwens often have biases of queries, keys and values only."""
    model = MODELS["llama, biases"].model()
    biases = {name for name, _ in model.named_parameters() if "o_proj.bias" in name}
    for name in biases:
        model.get_parameter(name).data.zero_()
    without = {f"blk.{layer}.attn_output.bias": None for layer in range(4)}
    file = write_gguf(tmp_path / "m.gguf", "llama", model, tensors=without)
    assert torch.equal(logits_of(read(file, tmp_path / "folder")), logits_of(model))


def test_an_output_that_is_the_embedding_again_is_tied(tmp_path: Path) -> None:
    model = MODELS["bloom"].model()
    again = {"output.weight": model.get_input_embeddings().weight.detach().numpy()}
    file = write_gguf(tmp_path / "m.gguf", "bloom", model, MODELS["bloom"].keys, again)
    assert read(file, tmp_path / "folder").num_parameters() == model.num_parameters()


# ---------------------------------------------------------------- parts


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    model = MODELS["llama"].model()
    names = [f"m.Q8_0-0000{n}-of-00003.GGUF" for n in (1, 2, 3)]
    return [
        write_gguf(tmp_path / name, "llama", model, part=(n, 3)) for n, name in enumerate(names)
    ]


def test_a_file_in_parts_is_read_as_one(parts: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    checkpoint = resolve(str(parts[0]), cache=cache)
    assert (checkpoint.source, checkpoint.label) == ("gguf", "m.Q8_0")
    model = MODELS["llama"].model()
    assert torch.equal(logits_of(checkpoint.load_model()), logits_of(model))
    whole = write_gguf(tmp_path / "whole.gguf", "llama", model)
    found, expected = (
        site_weights(str(file), context=Context(root=cache)).parameters.scale
        for file in (parts[0], whole)
    )
    assert np.array_equal(found, expected)
    model.model.norm.weight.data += 1
    for n, part in enumerate(parts):
        part.unlink()
        write_gguf(part, "llama", model, part=(n, 3))
    assert resolve(str(parts[0]), cache=cache).revision != checkpoint.revision


def rename(parts: list[Path]) -> Path:
    other = parts[1].with_name("m-00001-of-00002.GGUF")
    parts[1].rename(other)
    parts[2].rename(other.with_name("m-00002-of-00002.GGUF"))
    return other


def lose(parts: list[Path]) -> Path:
    parts[1].unlink()
    return parts[0]


def swap(parts: list[Path]) -> Path:
    content = [part.read_bytes() for part in parts[1:]]
    for part in parts[1:]:
        part.write_bytes(content.pop())
    return parts[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda parts: parts[1], r"part 2 of 3 .* give the first part \(m.Q8_0-00001"),
        (lose, "its part 2 is missing: put m.Q8_0-00002-of-00003.GGUF"),
        (swap, r"another part by its header \(split.no 2, split.count 3\)"),
        (rename, r"another part by its header \(split.no 1, split.count 3\)"),
        (lambda parts: parts[0].rename(parts[0].with_name("one.gguf")), "another part by"),
    ],
)
def test_parts_that_do_not_make_a_file_are_refused(
    change: Callable[[list[Path]], Path], said: str, parts: list[Path]
) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_gguf_header(change(parts))
