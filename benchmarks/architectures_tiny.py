"""Tiny random models of any of transformers' classes, from its default configuration, shrunken.

Nothing here knows an architecture: settings are recognised by how they are named, and a default
that does not go together with the small ones is left out.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto

VOCABULARY = 300
LAYERS = 4
MOST_PARAMETERS = 20_000_000
_SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
_SENTINELS = [f"<extra_id_{n}>" for n in range(20)]

# The first that matches a setting's name decides, what matches none stays.
_SIZES: tuple[tuple[str, int], ...] = (
    (r"(bos|cls|forced_bos)_token_id", 1),
    (r"(eos|sep|forced_eos|decoder_start)_token_id", 2),
    (r"pad_token_id", 0),
    (r".*_token_ids?|.*_token_index", 4),
    (r"(.*_)?vocab_size|.*vocab_size.*|num_embeddings", VOCABULARY),
    (r".*experts_per_tok(en)?|(moe_)?top_?k|moe_k|n_group|topk_group|num_selected_experts", 2),
    (r"num_shared_experts|n_shared_experts|first_k_dense_replace|num_dense_layers", 1),
    (r".*num_.*experts|.*n_(routed_)?experts|num_experts.*|moe_num_.*", 4),
    (r".*(num|n)_.*groups?|ngroups|group_size", 2),
    (r"num_kv_shared_layers", 0),
    (r"mamba_d_ssm", 64),
    (r".*(head_dim|head_size|d_kv|dim_head|kv_channels|d_head)", 8),
    (r"(num_|n_)?(key_value|kv)_?heads?|num_key_value_heads|multi_query_group_num", 2),
    (r".*heads?|num_.*_heads|n_heads?.*", 4),
    (r".*(num|n)_?.*(layers?|blocks)|n_layer|.*_layers|depth", LAYERS),
    (r"(q|kv)_lora_rank|.*_rank", 16),
    (r".*(intermediate|ffn|ff|inner|mlp).*(size|dim)|d_ff|d_inner|n_inner|hidden_dim", 48),
    (r"(.*_)?(hidden|embedding|embed|emb|encoder|decoder).*_?(size|dim|width)", 32),
    (r"d_model|n_embd|dim|d_embed.*|.*_hidden_size|width|emb_dim|d_latents|embed_dim", 32),
    (r".*(max|n)_.*position.*|n_ctx|seq_length|max_seq.*|context_length|max_length", 64),
    (r".*state_size|d_state|mamba_d_state|.*_state_dim", 8),
    (r"rotary_dim|.*rope_dim", 4),
    (r"image_size", 8),
    (r"patch_size", 4),
    (r"sliding_window|window_size|attention_window|local_window|.*chunk_(size|length)", 16),
)


def text_classes(*, headless: bool) -> dict[str, str]:
    """Every class that reads text, with the type of its config: heads, then encoders, then others.

    The last have no head, and are named if they are asked for.
    """
    found: dict[str, str] = {}
    for table in ("CAUSAL_LM", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "PRETRAINING", "TEXT_ENCODING"):
        names = getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES")
        for model_type, name in _pairs(names):
            if "text" in _modalities(name):
                found.setdefault(name, model_type)
    for model_type, name in _pairs(modeling_auto.MODEL_MAPPING_NAMES if headless else {}):
        if _modalities(name) == {"text"} and _reads_ids(name):
            found.setdefault(name, model_type)
    return found


def _pairs(names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for model_type, several in names.items():
        for name in [several] if isinstance(several, str) else several:
            yield model_type, name


def _modalities(name: str) -> set[str]:
    try:
        read = getattr(getattr(transformers, name), "input_modalities", "text")
    except Exception:  # needs a package that is not installed
        return set()
    return {read} if isinstance(read, str) else set(read)


def _reads_ids(name: str) -> bool:
    return "input_ids" in inspect.signature(getattr(transformers, name).forward).parameters


def tiny_model(name: str) -> Any:
    """A random model of a class; raises whatever its code does if it cannot be built so small."""
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    problems: list[Exception] = []
    for variant in _VARIANTS:
        try:
            model = cls(_with_defaults(_shrunken(cls.config_class, variant), name)).eval()
            _run(model)
        except Exception as error:
            problems.append(error)
            continue
        if sum(parameter.numel() for parameter in model.parameters()) <= MOST_PARAMETERS:
            return _unlike(model)
        problems.append(ValueError(f"it has more than {MOST_PARAMETERS:.0e} parameters"))
    raise problems[0]


def _run(model: Any) -> None:
    """Raises what the model's own code raises on a text, if its settings do not go together."""
    ids = torch.arange(5, 21).reshape(2, 8)
    known = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {"input_ids": ids}
    if "decoder_input_ids" in known:
        inputs["decoder_input_ids"] = ids[:, :6]
    if "use_cache" in known:
        inputs["use_cache"] = False
    with torch.no_grad():
        model(**inputs)


def _with_defaults(config: Any, name: str) -> Any:
    """What checkpoints of a class set, and its default configuration leaves open."""
    causal = name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if causal and getattr(config, "is_decoder", None) is False:
        config.is_decoder = True
    if getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 2
    return config


def _unlike(model: Any) -> Any:
    """No two features alike, which many initialisations leave."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """One way to make settings small; the first that a class accepts is taken."""

    sizes: tuple[tuple[str, int], ...] = ()
    lists: Literal["cut", "drop"] = "cut"
    filled: bool = False
    derived: bool = True
    is_decoder: bool = False


_MAMBA = ((r"(mamba_)?(n|num)_heads|n_mamba_heads|mamba_num_heads", 8),)
_VARIANTS = (
    _Variant(),
    _Variant(lists="drop"),
    _Variant(filled=True),
    _Variant(filled=True, lists="drop"),
    _Variant(derived=False),
    _Variant(derived=False, lists="drop"),
    _Variant(sizes=_MAMBA),
    _Variant(sizes=_MAMBA, lists="drop"),
    _Variant(sizes=((r"num_experts_per_tok|.*top_?k.*", 1),)),
    _Variant(sizes=((r"(num_|n_)?(key_value|kv)_?heads?", 4),)),
    _Variant(sizes=((r"hidden_size_per_layer_input", 0),)),
    _Variant(is_decoder=True),
    _Variant(is_decoder=True, lists="drop"),
)
_OF_NONE = {
    "head_dim": 8,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "layer_types": ["full_attention"] * LAYERS,
}


def _shrunken(config_class: Any, variant: _Variant) -> Any:
    """The default configuration, its sizes small."""
    settings = _small(config_class().to_dict(), variant)
    for name in ("model_type", "architectures", "transformers_version", "dtype"):
        settings.pop(name, None)
    if variant.is_decoder:
        settings["is_decoder"] = True
    return config_class(**settings)


def _small(settings: Mapping[str, Any], variant: _Variant) -> dict[str, Any]:
    lengths = {n for name, n in settings.items() if "layer" in name and type(n) is int}
    small: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and ("model_type" in value or name.endswith("_config")):
            if not name.startswith("per_layer"):
                small[name] = _small(value, variant)
        elif not variant.derived and re.fullmatch(r"(qk_)?head_dim|rope_parameters", name):
            continue  # the class computes it from others
        elif type(value) is int and value >= 0:
            small[name] = _size(name, value, variant)
        elif isinstance(value, list) and len(value) > LAYERS and len(value) in lengths:
            if variant.lists == "cut":  # one entry for each layer
                kept = value[:LAYERS]
                small[name] = [_size(name, n, variant) if type(n) is int else n for n in kept]
        elif _are_layers(name, value):
            small[name] = [n for n in value if n < LAYERS] or sorted({n % LAYERS for n in value})
        elif value is None and variant.filled and name in _OF_NONE:
            small[name] = _OF_NONE[name]
        else:
            small[name] = value
    return small


def _are_layers(name: str, value: object) -> bool:
    """Whether a list holds numbers of layers, some of which there are no longer."""
    numbers = isinstance(value, list) and value and all(type(n) is int for n in value)
    return bool(numbers) and "layer" in name and max(value) >= LAYERS  # type: ignore[call-overload]


def _size(name: str, value: int, variant: _Variant) -> int:
    patterns = (*variant.sizes, *_SIZES)
    size = next((size for pattern, size in patterns if re.fullmatch(pattern, name)), value)
    return size if name.endswith(("_id", "heads")) or variant.sizes else min(size, value)


def tokenizer() -> Any:
    """Words, mask token and sentinels, for models of every kind."""
    words = [*_SPECIAL.values(), *_SENTINELS]
    words += [f"w{n}" for n in range(VOCABULARY - len(words) - 20)]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    cls: Any = PreTrainedTokenizerFast  # partly untyped
    return cls(tokenizer_object=backend, **_SPECIAL, extra_special_tokens=_SENTINELS)


def save(folder: Path, name: str) -> None:
    """A tiny model in a folder; its tokenizer lies beside it, or transformers would replace it."""
    tiny_model(name).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "tokenizer")
