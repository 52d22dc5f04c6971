"""Small random models of every architecture that is read from GGUF, each setting in effect once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers

from tests.support.checkpoints.gguf_files import TOKENS

Rope = dict[str, Any]
CONTEXT = 256


@dataclass(frozen=True, kw_only=True)
class Written:
    """A model, and what its GGUF file says of it beside the usual settings.

    Attributes:
        architecture: llama.cpp's name.
        cls: Name of the transformers class.
        config: Its settings there.
        keys: The same in llama.cpp's words, under the architecture's prefix.
        tensors: Settings that llama.cpp keeps as tensors.
    """

    architecture: str
    cls: str
    config: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)

    def model(self) -> Any:
        """The model: random, with no bias and no scale that could be mistaken for none."""
        cls = getattr(transformers, self.cls)
        sizes = {
            "vocab_size": len(TOKENS),
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "initializer_range": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": None,
        }
        usual = {
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 96,
            "max_position_embeddings": CONTEXT,
        }
        known = cls.config_class().to_dict().keys()
        sizes |= {name: value for name, value in usual.items() if name in known}
        torch.manual_seed(0)
        model = cls(cls.config_class(**{**sizes, **self.config})).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.endswith((".D", "A_log")):
                parameter.data += 0.2 * torch.randn_like(parameter)
        return model


def rope(kind: str, **parameters: Any) -> Rope:
    """Parameters of rotary embeddings of a kind, on the base that most models have."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


def llama3_factors(dim: int, base: float, p: Mapping[str, float]) -> np.ndarray[Any, Any]:
    """What Llama 3's converter divides frequencies by, after ``conversion/llama.py``."""
    factors = []
    for frequency in 1.0 / (base ** (np.arange(0, dim, 2, dtype=np.float64) / dim)):
        wavelength, length = 2 * math.pi / frequency, p["original_max_position_embeddings"]
        if wavelength < length / p["high_freq_factor"]:
            factors.append(1.0)
        elif wavelength > length / p["low_freq_factor"]:
            factors.append(p["factor"])
        else:
            smooth = length / wavelength - p["low_freq_factor"]
            smooth /= p["high_freq_factor"] - p["low_freq_factor"]
            factors.append(1 / ((1 - smooth) / p["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_SHORT, _LONG = [1.0, 1.1, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0], [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0]
_YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
_YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_MOE_KEYS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 48}
_GEMMA_WINDOWS = ["sliding_attention", "full_attention"] * 2
_LLAMA: dict[str, Any] = {"architecture": "llama", "cls": "LlamaForCausalLM"}
_PHI3: dict[str, Any] = {"architecture": "phi3", "cls": "Phi3ForCausalLM"}
_LONG_ATTENTION = math.sqrt(1 + math.log(4) / math.log(64))

MODELS: Mapping[str, Written] = {
    "llama": Written(**_LLAMA),
    "llama, untied heads of another width": Written(
        **_LLAMA, config={"tie_word_embeddings": False, "head_dim": 32, "rms_norm_eps": 1e-3}
    ),
    "llama, biases": Written(**_LLAMA, config={"attention_bias": True, "mlp_bias": True}),
    "llama, linear": Written(
        **_LLAMA,
        config=rope("linear", factor=4.0),
        keys={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "llama, linear by the old key": Written(
        **_LLAMA, config=rope("linear", factor=2.5), keys={"rope.scale_linear": 2.5}
    ),
    "llama, yarn": Written(**_LLAMA, config=rope("yarn", **_YARN), keys=_YARN_KEYS),
    "llama, yarn with all it has": Written(
        **_LLAMA,
        config=rope("yarn", **_YARN, attention_factor=1.3, beta_fast=16.0, beta_slow=2.0),
        keys={
            **_YARN_KEYS,
            "rope.scaling.yarn_attn_factor": 1.3,
            "rope.scaling.yarn_beta_fast": 16.0,
            "rope.scaling.yarn_beta_slow": 2.0,
        },
    ),
    "llama, frequency factors": Written(
        **_LLAMA,
        config=rope("llama3", **_LLAMA3),
        tensors={"rope_freqs.weight": llama3_factors(16, 10000.0, _LLAMA3)},
    ),
    "mistral": Written(
        architecture="llama",
        cls="MistralForCausalLM",
        config={"sliding_window": 7},
        keys={"attention.sliding_window": 7},
    ),
    "mixtral": Written(
        architecture="llama",
        cls="MixtralForCausalLM",
        config={"num_local_experts": 4, "num_experts_per_tok": 3},
        keys={"expert_count": 4, "expert_used_count": 3},
    ),
    "qwen2": Written(
        architecture="qwen2", cls="Qwen2ForCausalLM", config=rope("default", rope_theta=1e6)
    ),
    "qwen2moe": Written(
        architecture="qwen2moe",
        cls="Qwen2MoeForCausalLM",
        config={**_MOE, "shared_expert_intermediate_size": 80},
        keys={**_MOE_KEYS, "expert_shared_feed_forward_length": 80},
    ),
    "qwen3": Written(
        architecture="qwen3",
        cls="Qwen3ForCausalLM",
        config={"head_dim": 32, **rope("yarn", **_YARN)},
        keys=_YARN_KEYS,
    ),
    "qwen3moe": Written(
        architecture="qwen3moe",
        cls="Qwen3MoeForCausalLM",
        config={**_MOE, "norm_topk_prob": True},
        keys=_MOE_KEYS,
    ),
    "gemma": Written(architecture="gemma", cls="GemmaForCausalLM", config={"head_dim": 32}),
    "gemma2": Written(
        architecture="gemma2",
        cls="Gemma2ForCausalLM",
        config={
            "query_pre_attn_scalar": 16,
            "sliding_window": 7,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        keys={
            "attention.sliding_window": 7,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": Written(
        architecture="gemma3",
        cls="Gemma3ForCausalLM",
        config={
            "num_hidden_layers": 7,
            "query_pre_attn_scalar": 16,
            "sliding_window": 7,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        keys={
            "attention.sliding_window": 7,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
    "gemma3, another pattern and base": Written(
        architecture="gemma3",
        cls="Gemma3ForCausalLM",
        config={
            "query_pre_attn_scalar": 16,
            "sliding_window": 7,
            "layer_types": _GEMMA_WINDOWS,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        },
        keys={
            "attention.sliding_window": 7,
            "attention.sliding_window_pattern": [True, False, True, False],
            "final_logit_softcapping": 3.0,
            "rope.freq_base": 1e6,
            "rope.freq_base_swa": 500.0,
        },
    ),
    "phi2": Written(
        architecture="phi2",
        cls="PhiForCausalLM",
        config={"num_key_value_heads": 4, **rope("default", partial_rotary_factor=0.5)},
        keys={"rope.dimension_count": 8},
    ),
    "phi3": Written(**_PHI3, config={"sliding_window": 7}, keys={"attention.sliding_window": 7}),
    "phi3, longrope": Written(
        **_PHI3,
        config={
            "original_max_position_embeddings": 64,
            **rope(
                "longrope",
                short_factor=_SHORT,
                long_factor=_LONG,
                original_max_position_embeddings=64,
            ),
        },
        keys={
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": 64,
            "rope.scaling.attn_factor": _LONG_ATTENTION,
            "rope.dimension_count": 16,
            "attention.sliding_window": 0,
        },
        tensors={
            "rope_factors_short.weight": np.array(_SHORT),
            "rope_factors_long.weight": np.array(_LONG),
        },
    ),
    "phi3, some features turned": Written(
        **_PHI3,
        config=rope("default", partial_rotary_factor=0.75),
        keys={"rope.dimension_count": 12},
    ),
    "falcon": Written(
        architecture="falcon",
        cls="FalconForCausalLM",
        config={"num_kv_heads": 1, "multi_query": True, "bias": False},
    ),
    "falcon, groups": Written(
        architecture="falcon",
        cls="FalconForCausalLM",
        config={"num_kv_heads": 2, "new_decoder_architecture": True, "bias": False},
    ),
    "bloom": Written(
        architecture="bloom",
        cls="BloomForCausalLM",
        keys={
            "context_length": CONTEXT,
            "feed_forward_length": 256,
            "attention.head_count_kv": 4,
        },
    ),
    "stablelm": Written(
        architecture="stablelm",
        cls="StableLmForCausalLM",
        config={"use_qkv_bias": True, **rope("default", partial_rotary_factor=0.25)},
        keys={"rope.dimension_count": 4, "use_parallel_residual": False},
    ),
    "stablelm, parallel": Written(
        architecture="stablelm",
        cls="StableLmForCausalLM",
        config={"use_parallel_residual": True, **rope("default", partial_rotary_factor=1.0)},
        keys={"use_parallel_residual": True},
    ),
    "gpt2": Written(architecture="gpt2", cls="GPT2LMHeadModel", keys={"feed_forward_length": 256}),
    "gptneox": Written(
        architecture="gptneox",
        cls="GPTNeoXForCausalLM",
        config={"use_parallel_residual": False, **rope("default", partial_rotary_factor=0.5)},
        keys={"rope.dimension_count": 8, "use_parallel_residual": False},
    ),
    "starcoder2": Written(
        architecture="starcoder2",
        cls="Starcoder2ForCausalLM",
        config={"sliding_window": 7, "norm_epsilon": 1e-3},
        keys={"attention.sliding_window": 7},
    ),
    "nemotron": Written(
        architecture="nemotron",
        cls="NemotronForCausalLM",
        config=rope("default", partial_rotary_factor=0.5),
        keys={
            "rope.dimension_count": 8,
            "attention.layer_norm_epsilon": 1e-5,
            "rope.scaling.type": "none",
        },
    ),
    "mamba": Written(
        architecture="mamba",
        cls="MambaForCausalLM",
        config={"state_size": 8, "time_step_rank": 4, "expand": 2, "intermediate_size": 128},
        keys={
            "context_length": CONTEXT,
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "attention.layer_norm_epsilon": None,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 128,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 4,
        },
    ),
    "granite": Written(
        architecture="granite",
        cls="GraniteForCausalLM",
        config={
            "attention_multiplier": 0.1,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
        keys={
            "attention.scale": 0.1,
            "embedding_scale": 3.0,
            "residual_scale": 0.5,
            "logit_scale": 2.0,
        },
    ),
    "minicpm": Written(
        architecture="minicpm",
        cls="GraniteForCausalLM",
        config={
            "attention_multiplier": 0.25,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.7,
            "logits_scaling": 4.0,
        },
        keys={"embedding_scale": 12.0, "residual_scale": 0.7, "logit_scale": 4.0},
    ),
    "command-r": Written(
        architecture="command-r",
        cls="CohereForCausalLM",
        config={"logit_scale": 0.25, "use_qk_norm": True},
        keys={"logit_scale": 0.25, "rope.scaling.type": "none"},
    ),
    "cohere2": Written(
        architecture="cohere2",
        cls="Cohere2ForCausalLM",
        config={"logit_scale": 0.25, "sliding_window": 7},
        keys={
            "logit_scale": 0.25,
            "attention.sliding_window": 7,
            "rope.dimension_count": 16,
            "rope.scaling.type": "none",
        },
    ),
    "olmo2": Written(architecture="olmo2", cls="Olmo2ForCausalLM"),
    "olmo3": Written(
        architecture="olmo2",
        cls="Olmo3ForCausalLM",
        config={"sliding_window": 7},
        keys={"attention.sliding_window": 7, "rope.freq_base": 500000.0},
    ),
    "smollm3": Written(
        architecture="smollm3",
        cls="SmolLM3ForCausalLM",
        config=rope("default", rope_theta=5e6),
    ),
    "lfm2": Written(
        architecture="lfm2",
        cls="Lfm2ForCausalLM",
        config={
            "layer_types": ["conv", "full_attention"] * 2,
            "block_auto_adjust_ff_dim": False,
            "conv_L_cache": 4,
        },
        keys={
            "attention.head_count_kv": [0, 2, 0, 2],
            "attention.layer_norm_rms_epsilon": 1e-5,
            "shortconv.l_cache": 4,
        },
    ),
    "gpt-oss": Written(
        architecture="gpt-oss",
        cls="GptOssForCausalLM",
        config={
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 7,
            **rope("yarn", **_YARN, truncate=False, beta_fast=32.0, beta_slow=1.0),
        },
        keys={
            **_YARN_KEYS,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_feed_forward_length": 96,
            "attention.sliding_window": 7,
        },
    ),
}
