"""Small random models of many architectures, built from their config classes."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 64
LENGTH = 8
_TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_BERT_LIKE = {"intermediate_size": 24, "max_position_embeddings": 40, "type_vocab_size": 2}
_BART_LIKE = {
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
}
_LLAMA_LIKE = {
    "intermediate_size": 24,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 40,
}
_OPT_LIKE = {"ffn_dim": 24, "max_position_embeddings": 40}

# name -> (config class, model class, settings besides size and number of layers)
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "albert": (
        "AlbertConfig",
        "AlbertForMaskedLM",
        {"embedding_size": 12, "intermediate_size": 24, "max_position_embeddings": 40},
    ),
    "albert-groups": (
        "AlbertConfig",
        "AlbertForMaskedLM",
        {
            "embedding_size": 12,
            "intermediate_size": 24,
            "max_position_embeddings": 40,
            "inner_group_num": 2,
        },
    ),
    "bart": ("BartConfig", "BartForConditionalGeneration", _BART_LIKE),
    "bert": ("BertConfig", "BertForMaskedLM", _BERT_LIKE),
    "bert-decoder": (
        "BertConfig",
        "BertLMHeadModel",
        {**_BERT_LIKE, "is_decoder": True, "add_cross_attention": True},
    ),
    "bloom": ("BloomConfig", "BloomForCausalLM", {}),
    "bloom-post-norm-residual": (
        "BloomConfig",
        "BloomForCausalLM",
        {"apply_residual_connection_post_layernorm": True},
    ),
    "cohere": ("CohereConfig", "CohereForCausalLM", _LLAMA_LIKE),
    "deberta": (
        "DebertaConfig",
        "DebertaForMaskedLM",
        {**_BERT_LIKE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    "deberta-v2": (
        "DebertaV2Config",
        "DebertaV2ForMaskedLM",
        {
            **_BERT_LIKE,
            "conv_kernel_size": 3,
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
        },
    ),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {"hidden_dim": 24, "max_position_embeddings": 40},
    ),
    "doge": ("DogeConfig", "DogeForCausalLM", {**_LLAMA_LIKE, "num_key_value_heads": 2}),
    "electra": ("ElectraConfig", "ElectraForMaskedLM", {**_BERT_LIKE, "embedding_size": 12}),
    "electra-discriminator": (
        "ElectraConfig",
        "ElectraForPreTraining",
        {**_BERT_LIKE, "embedding_size": 12},
    ),
    "falcon": ("FalconConfig", "FalconForCausalLM", {"ffn_hidden_size": 24}),
    "falcon-alibi": (
        "FalconConfig",
        "FalconForCausalLM",
        {"ffn_hidden_size": 24, "alibi": True, "parallel_attn": False},
    ),
    "falcon-new": (
        "FalconConfig",
        "FalconForCausalLM",
        {"ffn_hidden_size": 24, "new_decoder_architecture": True, "num_kv_heads": 1},
    ),
    "ernie": ("ErnieConfig", "ErnieForMaskedLM", _BERT_LIKE),
    "flaubert": ("FlaubertConfig", "FlaubertWithLMHeadModel", {"max_position_embeddings": 40}),
    "funnel": (
        "FunnelConfig",
        "FunnelForMaskedLM",
        {"block_sizes": [1, 2], "num_decoder_layers": 1, "d_head": 8, "d_inner": 24},
    ),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _LLAMA_LIKE),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _LLAMA_LIKE),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _LLAMA_LIKE),
    "glm4": ("Glm4Config", "Glm4ForCausalLM", {**_LLAMA_LIKE, "num_key_value_heads": 2}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_inner": 24, "n_positions": 40}),
    "gpt2-square": ("GPT2Config", "GPT2LMHeadModel", {"n_inner": 16, "n_positions": 40}),
    "gpt-neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {"intermediate_size": 24, "max_position_embeddings": 40},
    ),
    "gpt-neox": (
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        {"intermediate_size": 24, "max_position_embeddings": 40},
    ),
    "gpt-neox-sequential": (
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        {
            "intermediate_size": 24,
            "max_position_embeddings": 40,
            "use_parallel_residual": False,
        },
    ),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", {"n_inner": 24, "n_positions": 40, "rotary_dim": 4}),
    "granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        {
            "intermediate_size": 24,
            "num_key_value_heads": 1,
            "max_position_embeddings": 40,
            "residual_multiplier": 0.5,
        },
    ),
    "jamba": (
        "JambaConfig",
        "JambaForCausalLM",
        {
            "intermediate_size": 24,
            "num_key_value_heads": 1,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 1,
            "use_mamba_kernels": False,
        },
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _LLAMA_LIKE),
    "luke": (
        "LukeConfig",
        "LukeForMaskedLM",
        {**_BERT_LIKE, "entity_vocab_size": 4, "entity_emb_size": 8},
    ),
    "mamba": ("MambaConfig", "MambaForCausalLM", {}),
    "marian": ("MarianConfig", "MarianMTModel", _BART_LIKE),
    "mbart": ("MBartConfig", "MBartForConditionalGeneration", _BART_LIKE),
    "megatron-bert": ("MegatronBertConfig", "MegatronBertForMaskedLM", _BERT_LIKE),
    "mistral": ("MistralConfig", "MistralForCausalLM", _LLAMA_LIKE),
    "mobilebert": (
        "MobileBertConfig",
        "MobileBertForMaskedLM",
        {
            **_BERT_LIKE,
            "embedding_size": 12,
            "true_hidden_size": 8,
            "intra_bottleneck_size": 8,
            "num_feedforward_networks": 2,
        },
    ),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {"intermediate_size": 24, "max_position_embeddings": 40},
    ),
    "mpnet": ("MPNetConfig", "MPNetForMaskedLM", _BERT_LIKE),
    "nemotron": ("NemotronConfig", "NemotronForCausalLM", _LLAMA_LIKE),
    "olmo": ("OlmoConfig", "OlmoForCausalLM", {**_LLAMA_LIKE, "num_key_value_heads": 2}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {**_LLAMA_LIKE, "num_key_value_heads": 2}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**_OPT_LIKE, "word_embed_proj_dim": 16}),
    "opt-post-norm": (
        "OPTConfig",
        "OPTForCausalLM",
        {**_OPT_LIKE, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    ),
    "phi": ("PhiConfig", "PhiForCausalLM", {**_LLAMA_LIKE, "num_key_value_heads": 2}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _LLAMA_LIKE),
    "prophetnet": (
        "ProphetNetConfig",
        "ProphetNetForConditionalGeneration",
        {
            "num_encoder_attention_heads": 2,
            "num_decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": 40,
            "num_buckets": 8,
        },
    ),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _LLAMA_LIKE),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", _BERT_LIKE),
    "roberta-prelayernorm": (
        "RobertaPreLayerNormConfig",
        "RobertaPreLayerNormForMaskedLM",
        _BERT_LIKE,
    ),
    "roformer": ("RoFormerConfig", "RoFormerForMaskedLM", {**_BERT_LIKE, "embedding_size": 12}),
    "stablelm-parallel": (
        "StableLmConfig",
        "StableLmForCausalLM",
        {
            "intermediate_size": 24,
            "num_key_value_heads": 2,
            "max_position_embeddings": 40,
            "use_parallel_residual": True,
        },
    ),
    "t5": ("T5Config", "T5ForConditionalGeneration", {"d_kv": 8, "d_ff": 24}),
    "t5-gated": (
        "T5Config",
        "T5ForConditionalGeneration",
        {"d_kv": 8, "d_ff": 24, "feed_forward_proj": "gated-gelu"},
    ),
    "xlm": ("XLMConfig", "XLMWithLMHeadModel", {"max_position_embeddings": 40}),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", _BERT_LIKE),
    "xlnet": ("XLNetConfig", "XLNetLMHeadModel", {"d_inner": 24}),
    "zamba2": (
        "Zamba2Config",
        "Zamba2ForCausalLM",
        {
            "layers_block_type": ["mamba", "hybrid", "hybrid"],
            "mamba_d_state": 8,
            "n_mamba_heads": 4,
            "mamba_headdim": 8,
            "mamba_ngroups": 1,
            "attention_hidden_size": 32,
            "attention_head_dim": 16,
            "num_key_value_heads": 2,
            "adapter_rank": 4,
            "num_mem_blocks": 1,
            "chunk_size": 8,
            "intermediate_size": 24,
            "max_position_embeddings": 40,
            "use_mamba_kernels": False,
        },
    ),
}

# Mixtures of experts: no single module writes a layer's output.
UNSUPPORTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deepseek-v3": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {
            "intermediate_size": 24,
            "moe_intermediate_size": 8,
            "max_position_embeddings": 40,
            "num_key_value_heads": 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    ),
    "doge-experts": (
        "DogeConfig",
        "DogeForCausalLM",
        {
            **_LLAMA_LIKE,
            "num_key_value_heads": 2,
            "is_moe": True,
            "num_experts": 16,
            "num_experts_per_tok": 2,
        },
    ),
    "gpt-oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        {**_LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "granite-experts": (
        "GraniteMoeSharedConfig",
        "GraniteMoeSharedForCausalLM",
        {
            "intermediate_size": 24,
            "shared_intermediate_size": 8,
            "num_key_value_heads": 1,
            "max_position_embeddings": 40,
            "num_local_experts": 4,
        },
    ),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**_LLAMA_LIKE, "num_local_experts": 4}),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {
            **_LLAMA_LIKE,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
        },
    ),
}

SEQUENCE_TO_SEQUENCE = {"bart", "marian", "mbart", "prophetnet", "t5", "t5-gated"}


def tiny_model(
    architecture: str, *, hidden_size: int = 16, n_layers: int = 3, seed: int = 0
) -> nn.Module:
    """A random model in evaluation mode; the global random state is left as it was."""
    config_class, model_class, settings = (ARCHITECTURES | UNSUPPORTED)[architecture]
    sizes = {
        "hidden_size": hidden_size,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 2,
        "vocab_size": VOCABULARY,
        **_TOKENS,
    }
    if architecture in SEQUENCE_TO_SEQUENCE:
        sizes |= {"decoder_start_token_id": 2, "num_decoder_layers": n_layers}
    if config_class in {"BartConfig", "MBartConfig", "MarianConfig"}:
        sizes |= {"encoder_layers": n_layers, "decoder_layers": n_layers}
    if config_class == "ProphetNetConfig":
        sizes |= {"num_encoder_layers": n_layers}
        del sizes["num_hidden_layers"], sizes["num_attention_heads"]
    if config_class == "FunnelConfig":
        del sizes["num_hidden_layers"]  # those of its blocks together
    if config_class == "XLNetConfig":
        sizes |= {"d_head": hidden_size // 2}
    if config_class == "GPTNeoConfig":
        settings = {**settings, "attention_types": [[["global"], n_layers]]}
    config = getattr(transformers, config_class)(**sizes, **settings)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model: nn.Module = getattr(transformers, model_class)(config)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # no two features alike
    return model.eval()


def tiny_inputs(architecture: str, *, rows: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Keyword arguments of the forward pass: rows of eight different tokens, unpadded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, LENGTH), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if architecture in SEQUENCE_TO_SEQUENCE:
        decoder_ids = torch.randint(3, VOCABULARY, (rows, LENGTH - 2), generator=generator)
        inputs["decoder_input_ids"] = decoder_ids
    return inputs
