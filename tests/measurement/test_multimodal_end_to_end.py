"""Models that could also read images, from a folder to verdicts on text alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact
from robustness.errors import RobustnessError
from tests.support.checkpoints.checkpoint_folders import save_checkpoint
from tests.support.checkpoints.vetted import plain_nlls, vetted

VOCABULARY = 258
DIMS = (3, 7)
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
_SIGLIP = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_QWEN = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "patch_size": 4}
# class -> (settings of its text model, settings of its vision model)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Gemma3ForConditionalGeneration": ({}, _SIGLIP),
    "LlavaForConditionalGeneration": ({"model_type": "llama"}, _SIGLIP),
    "Qwen3_5ForConditionalGeneration": (
        {
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        {**_QWEN, "out_hidden_size": 16, "num_position_embeddings": 4},
    ),
}


def byte_tokenizer() -> Any:
    """One token for each byte, since transformers puts rules of its own in the place of others."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<|endoftext|>", *alphabet]
    backend = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cls: Any = PreTrainedTokenizerFast  # partly untyped
    return cls(tokenizer_object=backend, pad_token="<pad>", eos_token="<|endoftext|>")


def saved(folder: Path, class_name: str) -> Path:
    """A tiny random model of a multimodal class, saved with a tokenizer."""
    text, vision = MODELS[class_name]
    cls = getattr(transformers, class_name)
    config = cls.config_class(text_config={**_TEXT, **text}, vision_config=vision)
    torch.manual_seed(0)
    model = cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # no two features alike
    return save_checkpoint(folder, model, byte_tokenizer())


@pytest.mark.parametrize("class_name", MODELS)
def test_what_could_also_read_images_is_vetted_on_text_alone(
    class_name: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "model", class_name)
    vetting = vetted(folder, tmp_path / "run")
    assert (vetting.checkpoint.architecture, vetting.checkpoint.scoring) == (class_name, "causal")
    assert vetting.model_profile.hidden_size == _TEXT["hidden_size"]
    assert vetting.ablate(DIMS).is_harmless(within=50.0)
    measurement = vetting.measurement
    intact, ablated = measurement.chunk(0, Intact(), FixedAblation(ablation=Ablation(dims=DIMS)))
    rows = measurement.scoring_plan.chunk(0).rows
    model = vetting.checkpoint.load_model()
    assert len({token for row in rows for token in row.ids}) > 5
    assert intact.nll_nats == pytest.approx(plain_nlls(model, rows), rel=1e-5)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            norm = getattr(layer, "post_feedforward_layernorm", None)  # Gemma's: 1 + weight
            if norm is not None:
                norm.weight[list(DIMS)] = -1
            else:
                layer.mlp.down_proj.weight[list(DIMS)] = 0
    assert ablated.nll_nats == pytest.approx(plain_nlls(model, rows), rel=1e-5)
    assert not np.allclose(ablated.nll_nats, intact.nll_nats, rtol=1e-6)


def test_what_reads_a_text_in_both_directions_or_not_without_an_image_is_refused(
    tmp_path: Path,
) -> None:
    both = transformers.PaliGemmaConfig(
        text_config={**_TEXT, "model_type": "gemma"}, vision_config=_SIGLIP, projection_dim=16
    )
    needs = transformers.BlipConfig(
        text_config={**_TEXT, "is_decoder": True}, vision_config=_SIGLIP
    )
    models = {
        "lets later tokens": transformers.PaliGemmaForConditionalGeneration(both),
        "give a model that reads texts": transformers.BlipForConditionalGeneration(needs),
    }
    for reason, model in models.items():
        folder = save_checkpoint(tmp_path / type(model).__name__, model, byte_tokenizer())
        with pytest.raises(RobustnessError, match=reason):
            vetted(folder, tmp_path / "run")
