"""Settings of config.json that transformers would ignore are named, or refused."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

from robustness.checkpoint.config import ignored_note, load_config
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support.checkpoints import checkpoint_folders
from tests.support.checkpoints.checkpoint_folders import edit_config

LINEAR = {"rope_type": "linear", "factor": 2.0}

cache = checkpoint_folders.cache
folder = checkpoint_folders.folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    transformers.LlamaConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    return tmp_path


def note(folder: Path, **settings: Any) -> str | None:
    edit_config(folder, **settings)
    return ignored_note(load_config(folder, what="it"), folder)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rms_norm_epsilon": 1e-3}, "(rms_norm_epsilon, which may be meant for rms_norm_eps)"),
        ({"tie_word_embedding": False}, "may be meant for tie_word_embeddings)"),
        ({"sliding_window": 8}, "a setting that transformers ignores for this model (sliding_win"),
        ({"logit_scale": 3.0, "alibi": True}, "2 settings"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "beta": 1}}, ".beta)"),
    ],
)
def test_what_nothing_reads_is_named(settings: dict[str, Any], says: str, llama: Path) -> None:
    assert says in str(note(llama, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rope_theta": 5e5, "partial_rotary_factor": 0.5},
        {"rope_scaling": LINEAR},  # beside rope_parameters that say nothing else
        {"rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "rope_theta": 1e4}},
        {"rope_scaling": LINEAR, "rope_parameters": None, "rope_theta": 5e5},
        {"rope_scaling": {}, "rope_parameters": {**LINEAR, "factor": 4.0}},
        {"torch_dtype": "float16", "_name_or_path": "x", "max_length": 9, "hidden_dropout": 0.1},
        {"alibi": False, "qk_norm": None, "unsloth_version": "1"},
    ],
)
def test_what_is_read_or_harmless_or_off_is_not(settings: dict[str, Any], llama: Path) -> None:
    assert note(llama, **settings) is None


@pytest.mark.slow
def test_no_class_is_suspected_of_its_own_settings(tmp_path: Path) -> None:
    names = {
        **modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        **modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    suspected = {}
    for name in names.keys() - {"gemma4_assistant"}:  # which cannot be made of its own defaults
        file = tmp_path / "config.json"
        file.write_text(AutoConfig.for_model(name).to_json_string(use_diff=False))
        suspected[name] = ignored_note(load_config(tmp_path, what=name), tmp_path)
    assert not {name: said for name, said in suspected.items() if said is not None}
    assert len(suspected) > 200


def test_a_setting_that_does_not_concern_the_model_is_named(folder: Path) -> None:
    assert "(rope_scaling)" in str(note(folder, rope_scaling={"factor": 2}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rope_scaling": {"factor": 2.0}}, "sets factor in rope_scaling .* add the rope_type"),
        ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "without a rope_type"),
        ({"rope_scaling": {"type": "linaer", "factor": 2.0}}, "'linaer' .* none of default, dyn"),
        (
            {"rope_scaling": LINEAR, "rope_parameters": {**LINEAR, "factor": 4.0}},
            r"and transformers would take the former \(rope_parameters\.factor is 4\.0 in the file "
            r"and 2\.0 to it\): say all in rope_parameters, and remove rope_scaling",
        ),
        (
            {"rope_scaling": LINEAR, "rope_parameters": {"rope_theta": 5e5}},
            r"rope_parameters\.rope_theta is 500000\.0 in the file and 10000\.0 to it",
        ),
        (
            {"rope_scaling": LINEAR, "rope_parameters": {"type": "dynamic", "factor": 2.0}},
            r"rope_parameters\.type is 'dynamic' in the file and 'linear' to it",
        ),
        ({"quantization_config": {"quant_method": "mine"}}, "no quantizer .* 'mine'"),
        ({"quantization_config": {"bits": 4}}, "no quantizer"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantised .quantization."),
    ],
)
def test_what_certainly_changes_numbers_is_refused(
    settings: dict[str, Any], says: str, llama: Path
) -> None:
    edit_config(llama, **settings)
    with pytest.raises(CheckpointError, match=says):
        load_config(llama, what="it")


def test_two_accounts_of_rotary_positions_may_add_up(tmp_path: Path) -> None:
    """Of Gemma 3, rope_scaling is for the layers that see everything, and is added to the rest."""
    transformers.Gemma3TextConfig(num_hidden_layers=2).save_pretrained(tmp_path)
    kinds: dict[str, Any] = {"full_attention": {"rope_theta": 1e6}}
    kinds["sliding_attention"] = {"rope_theta": 5e3}
    edit_config(tmp_path, rope_scaling=LINEAR, rope_parameters=kinds)
    assert (
        load_config(tmp_path, what="it").rope_parameters["sliding_attention"]["rope_theta"] == 5e3
    )
    kinds["full_attention"] |= {"rope_type": "linear", "factor": 4.0}
    edit_config(tmp_path, rope_parameters=kinds)
    with pytest.raises(CheckpointError, match=r"rope_parameters\.full_attention\.factor is 4\.0"):
        load_config(tmp_path, what="it")


def test_the_note_is_the_checkpoint_s(folder: Path, cache: Path) -> None:
    edit_config(folder, layer_norm_epsilon=0.1)
    assert "layer_norm_epsilon" in str(resolve(str(folder), cache=cache).note)


def test_what_a_forward_pass_returns_is_not_the_checkpoint_s_to_decide(folder: Path) -> None:
    edit_config(folder, return_dict=False, output_hidden_states=True, output_attentions=True)
    config = load_config(folder, what="it")
    assert config.return_dict
    assert not config.output_hidden_states
    assert not config.output_attentions
