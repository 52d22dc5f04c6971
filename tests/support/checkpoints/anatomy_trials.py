"""Which classes are traced beforehand, at which sizes, and which settings are tried on each.

Nothing here says what comes of it: `write_anatomies` traces, and writes that down.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]

# Three of each, chosen so that no two go together in all three unless a class makes them; the
# class's own default where there is a zero.
SIZES: Mapping[str, tuple[int, int, int]] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), (2, 3, 5)),
    **dict.fromkeys(("hidden_size", "n_embd", "dim"), (32, 96, 64)),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), (2, 4, 8)),
    "num_key_value_heads": (1, 4, 2),
    "head_dim": (16, 14, 26),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "ffn_dim"), (24, 100, 62)),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), (40, 50, 70)),
    "embedding_size": (12, 18, 26),
    "type_vocab_size": (1, 2, 3),
    "vocab_size": (25, 0, 301),
    "original_max_position_embeddings": (40, 50, 70),
}
_SAME_WIDTH = {"word_embed_proj_dim": (32, 96, 64)}
_NARROWER = {"word_embed_proj_dim": (12, 18, 26)}
_UNPROJECTED = {"embedding_size": (32, 96, 64)}

# class -> its variants: settings besides the defaults; tuples are sizes.
CLASSES: Mapping[str, Sequence[Settings]] = {
    "AlbertForMaskedLM": ({},),
    "BertForMaskedLM": ({},),
    "BertForPreTraining": ({},),
    "CamembertForMaskedLM": ({},),
    "DistilBertForMaskedLM": ({},),
    "ElectraForMaskedLM": ({}, _UNPROJECTED),
    "ElectraForPreTraining": ({}, _UNPROJECTED),
    "MPNetForMaskedLM": ({},),
    "RobertaForMaskedLM": ({},),
    "XLMRobertaForMaskedLM": ({},),
    "GPT2LMHeadModel": ({},),
    "GPTNeoXForCausalLM": ({}, {"use_parallel_residual": False}),
    "Gemma2ForCausalLM": ({},),
    "Gemma3ForCausalLM": ({},),
    "GemmaForCausalLM": ({},),
    "LlamaForCausalLM": ({},),
    "MistralForCausalLM": ({},),
    "OPTForCausalLM": (_SAME_WIDTH, {**_SAME_WIDTH, "do_layer_norm_before": False},
                       {**_NARROWER, "do_layer_norm_before": False}),
    "Olmo2ForCausalLM": ({},),
    "OlmoForCausalLM": ({},),
    "Phi3ForCausalLM": ({},),
    "PhiForCausalLM": ({},),
    "Qwen2ForCausalLM": ({},),
    "Qwen3ForCausalLM": ({},),
    "StableLmForCausalLM": ({},),
    "Starcoder2ForCausalLM": ({},),
}  # fmt: skip

_RATES = ((0.0, 0.5),)
_EPS = ((1e-12, 1e-3),)
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "relu", "silu")
_YES_NO = (True, False)


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default"}


def _llama3(factor: float) -> dict[str, Any]:
    return {
        "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    }  # fmt: skip


# What config.json may set, and values of it to try besides the class's default.
VALUES: Mapping[str, Sequence[Any]] = {
    **dict.fromkeys(
        ("hidden_act", "activation_function", "activation"), _ACTIVATIONS
    ),
    **dict.fromkeys(
        ("add_cross_attention", "attention_bias", "deterministic_flash_attn",
         "do_layer_norm_before", "enable_bias", "gradient_checkpointing", "is_decoder",
         "is_folding_model", "is_llama_config", "layer_norm_elementwise_affine", "mlp_bias",
         "output_attentions", "output_hidden_states", "output_past", "qk_layernorm",
         "reference_compile", "reorder_and_upcast_attn", "return_dict", "rope_interleaved",
         "scale_attn_by_inverse_layer_idx", "scale_attn_weights", "sinusoidal_pos_embds",
         "sparse_prediction", "summary_proj_to_labels", "summary_use_proj", "tie_weights_",
         "tie_word_embeddings", "token_dropout", "torchscript", "use_bfloat16", "use_bias",
         "use_cache", "use_mrope", "use_parallel_residual", "use_qkv_bias", "use_sliding_window"),
        _YES_NO,
    ),
    **dict.fromkeys(("dtype", "torch_dtype"), (None, "float32", "float16", "bfloat16")),
    **dict.fromkeys(
        ("attention_dropout", "attention_probs_dropout_prob", "dropout", "embd_pdrop",
         "hidden_dropout", "hidden_dropout_prob", "layerdrop", "resid_pdrop"),
        (0,),
    ),
    **dict.fromkeys(
        ("attn_logit_softcapping", "classifier_dropout", "clip_qkv", "final_logit_softcapping",
         "finetuning_task", "n_inner"),
        (None,),
    ),
    **dict.fromkeys(("gap_size", "net_structure_type", "eos_token_ids", "num_memory_blocks"), (0,)),
    **dict.fromkeys(("down_scale_factor", "inner_group_num", "num_hidden_groups"), (1,)),
    "cache_implementation": (None, "hybrid"),
    "directionality": ("bidi",),
    "hidden_activation": (None, *_ACTIVATIONS),
    "max_window_layers": (21, 24, 28, 36, 48, 64, 70, 80),
    "n_ctx": (512, 1024, 2048),
    "partial_rotary_factor": (0.25, 0.4, 0.5, 0.75, 1.0),
    "pooler_fc_size": (768,),
    "pooler_num_attention_heads": (12,),
    "pooler_num_fc_layers": (3,),
    "pooler_size_per_head": (128,),
    "pooler_type": ("first_token_transform",),
    "position_embedding_type": ("absolute",),
    "prefix": (None, "</s>"),
    "pruned_heads": ({},),
    "query_pre_attn_scalar": (128, 144, 168, 224, 256),
    "rope_parameters": tuple(map(_rope, (10000.0, 100000.0, 500000.0, 1000000.0))),
    "rope_scaling": (None, _llama3(8.0), _llama3(32.0)),
    "rope_theta": (10000, 100000, 500000, 1000000),
    "rotary_emb_base": (10000,),
    "rotary_pct": (0.25, 1.0),
    "sliding_window": (None, 2047, 4096, 8192, 32768, 131072, 262144),
    "task_specific_params": (None, {"text-generation": {"do_sample": True, "max_length": 50}}),
    "summary_activation": (None, "gelu"),
    "summary_type": ("first", "cls_index"),
}  # fmt: skip
RANGES: Mapping[str, Sequence[tuple[float, float]]] = {
    **dict.fromkeys(
        ("activation_dropout", "attention_dropout", "attention_probs_dropout_prob", "attn_pdrop",
         "classifier_dropout", "classifier_dropout_prob", "dropout", "embd_pdrop",
         "embedding_dropout", "hidden_dropout", "hidden_dropout_prob", "layerdrop", "mlp_dropout",
         "qa_dropout", "resid_pdrop", "seq_classif_dropout", "summary_first_dropout",
         "summary_last_dropout"),
        _RATES,
    ),
    **dict.fromkeys(
        ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon", "rms_norm_eps"), _EPS
    ),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), ((10.0, 100.0),)),
    **dict.fromkeys(("initializer_range", "init_std"), ((0.001, 0.2),)),
    "rope_theta": ((1000.0, 1e7),),
}  # fmt: skip

# What files set that were written by earlier versions, or by hand, besides a class's own settings.
FOREIGN = {
    "activation_dropout", "add_cross_attention", "attention_bias", "cache_implementation",
    "classifier_dropout", "directionality", "down_scale_factor", "eos_token_ids",
    "finetuning_task", "gap_size",
    "gradient_checkpointing", "hidden_act", "hidden_activation", "is_decoder", "is_llama_config",
    "layer_norm_elementwise_affine", "layer_norm_eps", "mlp_bias", "n_ctx", "net_structure_type",
    "num_memory_blocks", "output_past", "partial_rotary_factor", "pooler_fc_size",
    "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    "position_embedding_type", "prefix", "pruned_heads", "reference_compile", "rope_interleaved",
    "rope_scaling", "rope_theta", "rotary_emb_base", "rotary_pct", "sliding_window",
    "task_specific_params", "tie_weights_", "torch_dtype", "torchscript", "use_bfloat16",
    "use_cache", "use_mrope", "use_sliding_window",
}  # fmt: skip
PER_LAYER_VALUES: Mapping[str, Sequence[str]] = {
    "layer_types": ("full_attention", "sliding_attention")
}
TEXTS = ("transformers_version", "_name_or_path", "tokenizer_class")
