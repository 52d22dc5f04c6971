"""Architectures that few tools read: read here to the right numbers, or refused with what to do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact
from robustness.errors import RobustnessError
from robustness.outliers.rules.settings import Rules
from robustness.outliers.scanning import scan
from robustness.scoring.forward import shift_right
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.measurement.test_architectures_end_to_end import tokenizer
from tests.support.checkpoints.checkpoint_folders import save_checkpoint
from tests.support.checkpoints.vetted import plain_nlls, vetted

DIMS = (3, 7)
_IDS = {"vocab_size": 64, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_SIZES = {**_IDS, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
_BERT = {**_SIZES, "intermediate_size": 24, "max_position_embeddings": 64}
_PROPHETNET = {
    **_IDS,
    "decoder_start_token_id": 2,
    "hidden_size": 16,
    "num_encoder_layers": 3,
    "num_decoder_layers": 3,
    "num_encoder_attention_heads": 2,
    "num_decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "is_decoder": True,
}
_BART = {
    **_IDS,
    "d_model": 16,
    "decoder_start_token_id": 2,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
}
_PERCEIVER = {
    "vocab_size": 64,
    "d_model": 16,
    "d_latents": 16,
    "num_latents": 8,
    "num_self_attends_per_block": 3,
    "num_self_attention_heads": 2,
    "num_cross_attention_heads": 2,
    "qk_channels": 16,
    "v_channels": 16,
    "max_position_embeddings": 32,
}
_GEMMA3N = {
    **_SIZES,
    "num_hidden_layers": 5,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
    "intermediate_size": 24,
    "num_kv_shared_layers": 0,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "layer_types": [*["sliding_attention"] * 4, "full_attention"],
    "activation_sparsity_pattern": [0.0] * 5,
}


def saved(folder: Path, class_name: str, **settings: Any) -> Path:
    """A random model of a class, no two of its features alike."""
    cls = getattr(transformers, class_name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return save_checkpoint(folder, model, tokenizer(sentinels=False))


def both_ways(vetting: Vetting, silenced: Callable[[Any], Sequence[Any]]) -> None:
    """Compare the first chunk, intact and ablated, with a plain loop over a changed copy."""
    measurement = vetting.measurement
    ablation = FixedAblation(ablation=Ablation(dims=DIMS, site=vetting.settings.site))
    intact, ablated = measurement.chunk(0, Intact(), ablation)
    rows = measurement.scoring_plan.chunk(0).rows
    model = vetting.checkpoint.load_model()
    assert intact.nll_nats == pytest.approx(plain_nlls(model, rows), rel=1e-5)
    with torch.no_grad():
        for module in silenced(model):
            module.weight[list(DIMS)] = 0
            module.bias[list(DIMS)] = 0
    assert ablated.nll_nats == pytest.approx(plain_nlls(model, rows), rel=1e-5)
    assert not np.allclose(ablated.nll_nats, intact.nll_nats, rtol=1e-6)


def test_perceiver_is_read_through_its_latents(tmp_path: Path) -> None:
    vetting = vetted(saved(tmp_path / "m", "PerceiverForMaskedLM", **_PERCEIVER), tmp_path / "run")
    assert vetting.checkpoint.scoring == "masked"
    assert (vetting.model_profile.layers, vetting.model_profile.hidden_size) == (4, 16)
    both_ways(
        vetting,
        lambda model: [
            layer.mlp.dense2
            for layer in (
                model.perceiver.encoder.cross_attention,
                *model.perceiver.encoder.self_attends,
            )
        ],
    )


def test_nystromformer_is_read_where_it_reads_texts_of_any_length(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "NystromformerForMaskedLM", **_BERT)
    both_ways(
        vetted(folder, tmp_path / "run"),
        lambda model: [layer.output.LayerNorm for layer in model.nystromformer.encoder.layer],
    )


@pytest.mark.parametrize(
    "class_name", ["ProphetNetForConditionalGeneration", "ProphetNetForCausalLM"]
)
def test_both_prophetnets_are_read_by_the_next_token_that_they_predict(
    class_name: str, tmp_path: Path
) -> None:
    vetting = vetted(saved(tmp_path / "m", class_name, **_PROPHETNET), tmp_path / "run")
    seq2seq = class_name == "ProphetNetForConditionalGeneration"
    assert vetting.checkpoint.scoring == ("seq2seq" if seq2seq else "causal")
    both_ways(
        vetting,
        lambda model: [layer.feed_forward_layer_norm for layer in model.prophetnet.decoder.layers],
    )


@pytest.mark.parametrize(
    "class_name", ["BlenderbotForConditionalGeneration", "M2M100ForConditionalGeneration"]
)
def test_a_decoder_without_a_rule_of_its_own_begins_as_its_config_says(
    class_name: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "m", class_name, **_BART)
    vetting = vetted(folder, tmp_path / "run")
    assert vetting.checkpoint.scoring == "seq2seq"
    both_ways(vetting, lambda model: [layer.fc2 for layer in model.model.decoder.layers])
    rules = {"massive": {"threshold": 1e-3, "median_factor": 3.0}}
    assert vetted(folder, tmp_path / "run", rule="massive", rules=rules).outliers().dims
    unsaid: Any = torch.nn.Module()
    unsaid.config = object()
    with pytest.raises(RobustnessError, match="sets no decoder_start_token_id: set it"):
        shift_right(unsaid, torch.tensor([[5, 6, 2]]))


def test_a_discriminator_that_pools_its_tokens_is_asked_which_were_replaced(
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {
        "vocab_size": 64,
        "pad_token_id": 1,
        "d_model": 16,
        "n_head": 2,
        "d_head": 8,
    }
    settings |= {"d_inner": 24, "block_sizes": [1, 1, 1], "num_decoder_layers": 1}
    folder = saved(tmp_path / "m", "FunnelForPreTraining", **settings)
    assert vetted(folder, tmp_path / "run").checkpoint.scoring == "replaced-token"


@pytest.mark.slow
def test_doge_with_the_16384_experts_of_its_default_is_scanned_and_its_mixed_tokens_refused(
    tmp_path: Path,
) -> None:
    """Its router mixes the tokens of a batch, so what it predicts depends on other texts."""
    settings = {**_BERT, "num_key_value_heads": 2, "is_moe": True}
    folder = saved(tmp_path / "m", "DogeForCausalLM", **settings)
    rules, context = Rules(), Context(root=tmp_path / "store")
    found = scan(str(folder), label="doge", rules=rules, context=context)
    assert (found.layers, found.hidden_size, found.kind) == (3, 16, "reader")
    with pytest.raises(RobustnessError, match=r"other texts of a batch change .* can be scanned"):
        vetted(folder, tmp_path / "run")


def test_gemma3n_has_several_residual_streams_and_does_what_its_refusal_says(
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path / "m", "Gemma3nForCausalLM", **_GEMMA3N)
    with pytest.raises(
        RobustnessError, match=r"several residual streams lack, .*'residual' .*'massive'\.$"
    ):
        vetted(folder, tmp_path / "run")
    rules = {"massive": {"threshold": 1e-3, "median_factor": 3.0}}
    vetting = vetted(folder, tmp_path / "run", rule="massive", rules=rules, site="residual")
    assert vetting.outliers().dims
    intact, ablated = vetting.measurement.chunk(
        0, Intact(), FixedAblation(ablation=Ablation(dims=DIMS, site="residual"))
    )
    rows = vetting.measurement.scoring_plan.chunk(0).rows
    assert intact.nll_nats == pytest.approx(
        plain_nlls(vetting.checkpoint.load_model(), rows), rel=1e-5
    )
    assert not np.allclose(ablated.nll_nats, intact.nll_nats, rtol=1e-6)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a Nyströmformer of one length": (
        "NystromformerForMaskedLM",
        {**_BERT, "segment_means_seq_len": 24, "num_landmarks": 8},
        "give a model that reads texts of any length",
    ),
    "FlauBERT with norms before": (
        "FlaubertWithLMHeadModel",
        {
            "vocab_size": 64, "emb_dim": 16, "n_layers": 3, "n_heads": 2, "pre_norm": True,
            "max_position_embeddings": 64, "pad_index": 1,
        },
        "try another version of transformers",
    ),
    "SqueezeBERT": (
        "SqueezeBertForMaskedLM",
        {
            **_BERT, "embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1,
            "intermediate_groups": 1, "output_groups": 1, "post_attention_groups": 1,
        },
        "give a model of another architecture",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_sentence_that_says_what_to_do(
    name: str, tmp_path: Path
) -> None:
    class_name, settings, advice = REFUSED[name]
    folder = saved(tmp_path / "m", class_name, **settings)
    with pytest.raises(RobustnessError, match=advice) as caught:
        vetted(folder, tmp_path / "run")
    assert "\n" not in str(caught.value)
