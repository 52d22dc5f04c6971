"""Writes robustness/known/*.json: what tracing finds on small skeletons, for scans without torch.

``python -m tests.write_anatomies [CLASS ...]``; all classes where none is named. Which classes and
settings are tried stands here; what is found of them is only ever traced. A class whose layers do
not all look alike is refused.
"""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import transformers

from robustness.architecture import candidates
from robustness.errors import RobustnessError
from robustness.known_anatomies import FOLDER, PER_LAYER, SCHEMA, instantiate, spelled
from robustness.site_weights import traced
from robustness.skeleton import map_names
from robustness.stacks import ANATOMY_SCHEMA
from robustness.verification import load_config
from robustness.weights import TensorInfo

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
_PROJECTED = {"word_embed_proj_dim": (32, 96, 64)}
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
    "EsmForMaskedLM": ({"position_embedding_type": "rotary", "token_dropout": True,
                        "emb_layer_norm_before": False, "mask_token_id": 3, "pad_token_id": 1,
                        "vocab_size": 33},),
    "MPNetForMaskedLM": ({},),
    "ModernBertForMaskedLM": ({},),
    "RobertaForMaskedLM": ({},),
    "XLMRobertaForMaskedLM": ({},),
    "GPT2LMHeadModel": ({},),
    "GPTNeoXForCausalLM": ({}, {"use_parallel_residual": False}),
    "Gemma2ForCausalLM": ({},),
    "Gemma3ForCausalLM": ({},),
    "GemmaForCausalLM": ({},),
    "LlamaForCausalLM": ({},),
    "MistralForCausalLM": ({},),
    "OPTForCausalLM": (_PROJECTED, {**_PROJECTED, "do_layer_norm_before": False}),
    "Olmo2ForCausalLM": ({},),
    "OlmoForCausalLM": ({},),
    "Phi3ForCausalLM": ({},),
    "PhiForCausalLM": ({},),
    "Qwen2ForCausalLM": ({},),
    "Qwen3ForCausalLM": ({},),
    "SmolLM3ForCausalLM": ({},),
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
        ("hidden_act", "hidden_activation", "activation_function", "activation"), _ACTIVATIONS
    ),
    **dict.fromkeys(
        ("add_cross_attention", "attention_bias", "deterministic_flash_attn",
         "do_layer_norm_before", "enable_bias", "gradient_checkpointing", "is_decoder",
         "is_folding_model", "layer_norm_elementwise_affine", "mlp_bias", "output_attentions",
         "output_hidden_states", "output_past", "qk_layernorm", "reference_compile",
         "reorder_and_upcast_attn", "return_dict", "scale_attn_by_inverse_layer_idx",
         "scale_attn_weights", "sinusoidal_pos_embds", "sparse_prediction",
         "summary_proj_to_labels", "summary_use_proj", "tie_weights_", "tie_word_embeddings",
         "token_dropout", "torchscript", "use_bfloat16", "use_bias", "use_cache", "use_mrope",
         "use_parallel_residual", "use_qkv_bias", "use_sliding_window"),
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
         "finetuning_task", "hidden_activation", "n_inner", "prefix"),
        (None,),
    ),
    **dict.fromkeys(("gap_size", "net_structure_type", "eos_token_ids", "num_memory_blocks"), (0,)),
    **dict.fromkeys(("down_scale_factor", "inner_group_num", "num_hidden_groups"), (1,)),
    "directionality": ("bidi",),
    "hidden_activation": (None, *_ACTIVATIONS),
    "max_window_layers": (21, 24, 28, 36, 48, 64, 70, 80),
    "n_ctx": (512, 1024, 2048),
    "partial_rotary_factor": (0.25, 0.5, 1.0),
    "pooler_fc_size": (768,),
    "pooler_num_attention_heads": (12,),
    "pooler_num_fc_layers": (3,),
    "pooler_size_per_head": (128,),
    "pooler_type": ("first_token_transform",),
    "position_embedding_type": ("absolute",),
    "pruned_heads": ({},),
    "query_pre_attn_scalar": (128, 144, 168, 224, 256),
    "rope_parameters": tuple(map(_rope, (10000.0, 100000.0, 500000.0, 1000000.0))),
    "rope_scaling": (None, _llama3(8.0), _llama3(32.0)),
    "rope_theta": (10000, 100000, 500000, 1000000),
    "rotary_emb_base": (10000,),
    "rotary_pct": (0.25, 1.0),
    "sliding_window": (None, 2047, 4096, 8192, 32768, 131072, 262144),
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
    "activation_dropout", "add_cross_attention", "attention_bias", "classifier_dropout",
    "directionality", "down_scale_factor", "eos_token_ids", "finetuning_task", "gap_size",
    "gradient_checkpointing", "hidden_activation", "hidden_act", "is_decoder",
    "layer_norm_elementwise_affine", "layer_norm_eps", "mlp_bias", "n_ctx", "net_structure_type",
    "num_memory_blocks", "output_past", "partial_rotary_factor", "pooler_fc_size",
    "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type",
    "position_embedding_type", "prefix", "pruned_heads", "reference_compile", "rope_scaling",
    "rope_theta", "rotary_emb_base", "rotary_pct", "sliding_window", "tie_weights_", "torch_dtype",
    "torchscript", "use_bfloat16", "use_cache", "use_mrope", "use_sliding_window",
}  # fmt: skip
PER_LAYER_VALUES: Mapping[str, Sequence[str]] = {
    "layer_types": ("full_attention", "sliding_attention")
}
TEXTS = ("transformers_version", "_name_or_path")


class Irregular(Exception):
    """A class whose anatomy is not the same for all layers and sizes."""


def entry_of(name: str, variant: Settings) -> dict[str, Any]:
    """What is found of a class in one of its variants."""
    defaults = defaults_of(name)
    fixed, sizes, ids = _parts(variant, defaults)
    bases = bases_of(name, variant)
    seen = [Seen(base) for base in bases]
    made = generalised(seen, [{key: base[key] for key in sizes} for base in bases])

    def same(settings: Settings) -> bool:
        """Whether tracing finds the same with other settings, at the second of the sizes."""
        try:
            other = Seen({**bases[1], **settings})
        except Exception:  # whatever it is, such a checkpoint is left to tracing
            return False
        if (other.stacks, other.shapes) != (seen[1].stacks, seen[1].shapes):
            return False
        optional.update(other.optional)
        return True

    optional = {name for one in seen for name in one.optional}
    rules = _rules(bases[1], defaults, made, same, ids)
    smallest = {key: min(base[key] for base in bases) for key in sizes}
    rules.update({k: {"at_least": smallest[k], "default": defaults[k]} for k in sizes})
    rules["model_type"] = {"values": [defaults["model_type"]], "required": True}
    rules.update({k: {"values": [v], "required": True} for k, v in fixed.items()})
    for tensor in made["tensors"]:
        if {tensor["name"].format(0)} & optional:
            tensor["optional"] = True
    return {
        "settings": dict(sorted(rules.items())),
        "multiples": _multiples(bases, sizes),
        **made,
        "spellings": list(_spellings(seen[0])),
        "ignored": sorted(
            getattr(seen[0].skeleton, "_keys_to_ignore_on_load_unexpected", ()) or ()
        ),
    }


def defaults_of(name: str) -> dict[str, Any]:
    """The settings of a class's config."""
    made: dict[str, Any] = getattr(transformers, name).config_class().to_dict()
    return made


def bases_of(name: str, variant: Settings) -> list[dict[str, Any]]:
    """What is traced of a class: config.json of three sizes, with nothing else set."""
    defaults = defaults_of(name)
    fixed, sizes, ids = _parts(variant, defaults)
    return [
        {
            "architectures": [name],
            "model_type": defaults["model_type"],
            **fixed,
            **{key: three[number] or defaults[key] for key, three in sizes.items()},
            **(dict.fromkeys(ids, 1) if number != 1 else {}),  # within the small vocabularies
        }
        for number in range(3)
    ]


def _parts(
    variant: Settings, defaults: Settings
) -> tuple[dict[str, Any], dict[str, tuple[int, int, int]], list[str]]:
    """A variant's fixed settings, its sizes, and which settings are tokens."""
    fixed = {key: value for key, value in variant.items() if type(value) is not tuple}
    varied = {key: value for key, value in variant.items() if type(value) is tuple}
    sizes = {
        key: three
        for key, three in {**SIZES, **varied}.items()
        if key in defaults and key not in fixed
    }
    return fixed, sizes, [k for k in defaults if k.endswith("_token_id") and k not in fixed]


class Seen:
    """What tracing finds of one config.json."""

    def __init__(self, settings: Settings) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(settings))
            config = load_config(Path(folder), what="it")
        architecture = candidates(config, what="it")[0].name
        self.skeleton, anatomy = traced(config, architecture, "auto", "it")
        self.stacks = json.loads(json.dumps([asdict(stack) for stack in anatomy.stacks]))
        parameters = list(self.skeleton.named_parameters(remove_duplicate=False))
        self.shapes = {name: tuple(value.shape) for name, value in parameters}
        first: dict[int, str] = {}
        for name, value in parameters:
            first.setdefault(id(value), name)
        self.optional = {name for name, value in parameters if first[id(value)] != name}


def generalised(seen: Sequence[Seen], sizes: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """Stacks and tensors with layers' numbers and sizes left open.

    Raises:
        Irregular: That cannot be done so that each of those seen comes out again.
    """
    stacks: list[dict[str, Any]] = []
    for versions in zip(*(one.stacks for one in seen), strict=True):
        numbers = [len(stack["layers"]) for stack in versions]
        stack = dict(versions[0])
        for part in PER_LAYER:
            stack[part] = _place(versions[0][part])
        stack["n_layers"] = _key_of(numbers, sizes)
        stack["hidden_size"] = _key_of([one["hidden_size"] for one in versions], sizes)
        stacks.append(stack)
        for version, own in zip(versions, sizes, strict=True):
            if instantiate(stack, own) != version:
                raise Irregular(f"the layers of {stack['name']} do not all look alike")
    layers = {
        stack["layers"][0]["layer_module"]: stack["n_layers"]
        for stack in stacks
        if "{}" in stack["layers"][0]["layer_module"]
    }
    tensors = [_tensors(one.shapes, layers, own) for one, own in zip(seen, sizes, strict=True)]
    if len({json.dumps([*one]) for one in tensors}) != 1:
        raise Irregular("there are other parameters at other sizes")
    return {
        "stacks": stacks,
        "tensors": [
            {
                "name": name,
                "shape": [
                    _axis(lengths, sizes)
                    for lengths in zip(*(one[name, n] for one in tensors), strict=True)
                ],
                **({} if n is None else {"layers": n}),
            }
            for name, n in tensors[0]
        ],
    }


def _place(places: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The one template of all layers' places, or of none."""
    if not places:
        return []
    return [{field: _open([place[field] for place in places]) for field in places[0]}]


def _open(values: Sequence[Any]) -> Any:
    """A field with the layer's number left open."""
    if all(value == values[0] for value in values):
        return values[0]
    if values == [*range(len(values))]:
        return "{}"
    parts = str(values[0]).split(".")
    for at, part in enumerate(parts):
        template = ".".join([*parts[:at], "{}", *parts[at + 1 :]])
        if part == "0" and [template.format(i) for i in range(len(values))] == [*values]:
            return template
    raise Irregular(f"{values[0]} and {values[1]} differ by more than the layer's number")


def _tensors(
    shapes: Mapping[str, tuple[int, ...]], layers: Mapping[str, str], sizes: Mapping[str, int]
) -> dict[tuple[str, str | None], tuple[int, ...]]:
    """Shapes by the parameters' names, once for all layers."""
    found: dict[tuple[str, str | None], set[tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        key: tuple[str, str | None] = (name, None)
        for module, n_layers in layers.items():
            for i in range(sizes[n_layers]):
                start = module.format(i) + "."
                if name.startswith(start):
                    key = (f"{module}.{name.removeprefix(start)}", n_layers)
        found.setdefault(key, set()).add(shape)
    for (name, n), ones in found.items():
        if len(ones) != 1 or any(
            name.format(i) not in shapes for i in range(1 if n is None else sizes[n])
        ):
            raise Irregular(f"{name} is not the same in all layers")
    return {key: next(iter(ones)) for key, ones in found.items()}


def _key_of(values: Sequence[int], sizes: Sequence[Mapping[str, int]]) -> str:
    for key in sizes[0]:
        if [own[key] for own in sizes] == [*values]:
            return key
    raise Irregular(f"no setting is {values}")


def _axis(values: Sequence[int], sizes: Sequence[Mapping[str, int]]) -> list[Any] | int | None:
    """A number, a multiple of a size, or nothing that is known."""
    if len(set(values)) == 1:
        return values[0]
    for factor in (1, 2, 3, 4):
        for key in sizes[0]:
            if [factor * own[key] for own in sizes] == [*values]:
                return [factor, key]
    return None


def _multiples(bases: Sequence[Settings], sizes: Iterable[str]) -> list[list[Any]]:
    """What was a multiple of what in all that was tried, and by what at least.

    A class may need it to be: heads of a whole number of features, and of an even one.
    """
    keys = sorted(sizes)
    return [
        [larger, smaller, math.gcd(*(base[larger] // base[smaller] for base in bases))]
        for larger in keys
        for smaller in keys
        if larger != smaller and not any(base[larger] % base[smaller] for base in bases)
    ]


def _rules(
    base: Settings,
    defaults: Settings,
    made: Mapping[str, Any],
    same: Callable[[Settings], bool],
    ids: Iterable[str],
) -> dict[str, dict[str, Any]]:
    """Which other values of which settings change nothing, each tried on its own."""
    rules: dict[str, dict[str, Any]] = {}
    n_layers = made["stacks"][0]["n_layers"]
    for key in sorted({*defaults, *FOREIGN} - {*base, *ids, *TEXTS}):
        tried = [*VALUES.get(key, ())]
        if key in defaults and key not in PER_LAYER_VALUES:
            tried.insert(0, defaults[key])
        values: list[Any] = []
        for value in tried:
            known = json.dumps(value) in map(json.dumps, values)
            if not known and same({key: value}):
                values.append(json.loads(json.dumps(value)))
        rule: dict[str, Any] = {"values": values} if values else {}
        between = [[*ends] for ends in RANGES.get(key, ()) if all(same({key: end}) for end in ends)]
        if between:
            rule["between"] = between
        if key in defaults and (kinds := PER_LAYER_VALUES.get(key)):
            n = base[n_layers]
            mixed = [kinds[i % 2] for i in range(n)]
            if all(same({key: items}) for items in ([kinds[0]] * n, [kinds[1]] * n, mixed)):
                rule["per_layer"] = [n_layers, [*kinds]]
            elif same({key: [kinds[0]] * n}):
                rule["per_layer"] = [n_layers, [kinds[0]]]
        if rule:
            rules[key] = rule
    for key in ids:
        nothing = {"values": [None]} if same({key: None}) else {}
        if all(same({key: value}) for value in (0, 1, base["vocab_size"] - 1)):
            rules[key] = {"below": "vocab_size", "default": defaults[key], **nothing}
    for key in TEXTS:
        if same({key: "4.0.1"}) and same({key: "a/b"}):
            rules[key] = {"any_text": True}
    return rules


def _spellings(seen: Seen) -> Iterator[dict[str, Any]]:
    """How else files may name the parameters so that transformers reads them."""
    legacy = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    names = [name for name in seen.shapes if name not in seen.optional]
    done = []
    for prefix in ("", f"{seen.skeleton.base_model_prefix}."):
        for instead in ({}, legacy):
            spelling = {"without": prefix, "instead": instead}
            files = {name: spelled(name, spelling) for name in names}
            tensors = {
                file: TensorInfo(
                    name=file, file=Path(), dtype="F32", shape=seen.shapes[name], offset=0
                )
                for name, file in files.items()
            }
            found = map_names(seen.skeleton, tensors)
            if files not in done and found and files.items() <= found.stored.items():
                done.append(files)
                yield spelling


def text_of(name: str) -> str:
    """The file of a class."""
    known = {
        "schema": SCHEMA,
        "anatomy_schema": ANATOMY_SCHEMA,
        "written_by": "python -m tests.write_anatomies",
        "entries": [entry_of(name, variant) for variant in CLASSES[name]],
    }
    return _lines(known) + "\n"


def _lines(value: Any, depth: int = 4, indent: str = "") -> str:
    """JSON with a line for each setting and each tensor."""
    if depth == 0 or not value or not isinstance(value, dict | list):
        return json.dumps(value)
    inner = indent + " "
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {_lines(v, depth - 1, inner)}" for k, v in value.items()]
    else:
        items = [_lines(item, depth - 1, inner) for item in value]
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{right}"


def main(names: Sequence[str]) -> None:
    """Write the files of some classes, or of all."""
    for name in names or CLASSES:
        try:
            text = text_of(name)
        except (Irregular, RobustnessError) as error:
            sys.stderr.write(f"{name}: not written, {error}\n")
            continue
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
        sys.stderr.write(f"{name}: {len(text)} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
