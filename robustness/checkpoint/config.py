"""The settings of config.json: read without running anything, and every one of them accounted for.

transformers keeps a setting that it does not know as an attribute that nothing reads. Which are
known is found in its own configuration classes and in the modelling code beside them.
"""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robustness.checkpoint.loading import loading_errors, quiet
from robustness.checkpoint.weights import read_json
from robustness.errors import CheckpointError
from robustness.runtime.libraries import load_libraries

# Settings of config.json that would make transformers read other files than those verified, or
# fetch kernels from the Hub; a checkpoint has no business deciding either.
_FOREIGN_SETTINGS = ("transformers_weights", "fusion_config", "kernel_config", "distributed_config")
# Settings that change what a forward pass returns, not what it computes.
_RETURNED = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
# Settings that transformers makes lists of that length from as soon as it reads them.
_COUNTS = re.compile(r"num_labels|(?:\w+_)?(?:layers?|experts?|heads?|blocks?|groups?)")
_MAX_COUNT = 100_000
# What no forward pass in evaluation mode and float32 depends on: provenance, training, caching,
# generation, the tokenizer's ids, kernels, and what is returned beside the logits.
HARMLESS = re.compile(
    r"transformers(\.js_|_)\w+|_?name_or_path|_commit_hash|(torch_|model_)?dtype|architectures|"
    r"auto_map|model_type|task_specific_params|finetuning_task|tokenizer_class|model_max_length|"
    r"language|license|unsloth_\w+|torchscript|use_bfloat16|output_past|(use_)?cache\w*|"
    r".*(dropout|pdrop|drop_path|drop_rate|initiali[sz]er|init_std|aux_loss|z_loss)\w*|"
    r"(use_)?gradient_checkpointing\w*|.*_token_ids?|.*(flash|sdpa|attn_implementation)\w*|"
    r"pretraining_tp|onnx\w*|output_\w+|return_dict\w*"
)
_QUANTISED = re.compile(r"quant\w*|\w+_quant\w*|compression_config|bnb_\w+|load_in_[48]bit")
_BITS = ("load_in_8bit", "load_in_4bit")
_ROPE_TYPES = {"rope_type", "type"}
_SUGGESTION = 0.85
"""How much like a known name one must be to be taken for a slip of the pen."""


def load_config(folder: Path, *, what: str) -> Any:
    """The config of a folder, without settings that fetch or run anything.

    Raises:
        CheckpointError: It is damaged, of a type transformers does not contain, or has settings
            that change the model's numbers and would be ignored.
    """
    load_libraries()
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto import configuration_auto

    settings = read_json(folder / "config.json")
    for name, count in _counts(settings):
        if count > _MAX_COUNT:
            raise CheckpointError(
                f"{what} sets {name} to {count} in config.json: that is no model."
            )
    model_type = settings.get("model_type")
    model_types: Any = getattr(configuration_auto, "CONFIG_MAPPING_NAMES")  # noqa: B009 (untyped)
    if model_type is not None and str(model_type) not in model_types and "auto_map" not in settings:
        raise CheckpointError(
            f"{what} is of type {model_type!r}, which transformers {transformers.__version__} does "
            "not contain: update transformers, or correct 'model_type' in config.json."
        )
    with loading_errors(f"The config.json of {what}"), quiet():
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        for name in _FOREIGN_SETTINGS:
            if hasattr(config, name):
                delattr(config, name)
        config._attn_implementation = None  # transformers' default, never a kernel from the Hub
        config._experts_implementation = None
        for part, _ in _parts(config, settings):
            for name, value in _RETURNED.items():
                setattr(part, name, value)
        _require_rope_types(config, settings, what)
        _require_quantizer(config, settings, what)
    return config


def _counts(settings: Any) -> Iterator[tuple[str, float]]:
    """The settings that say how many of something there are, also those of parts of the model."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif isinstance(value, int | float) and _COUNTS.fullmatch(name):
            yield name, value


def ignored_note(config: Any, folder: Path) -> str | None:
    """A note on the settings of config.json that nothing in transformers reads for this model."""
    ignored = dict(_ignored(config, read_json(folder / "config.json")))
    if not ignored:
        return None
    shown = ", ".join(
        name if meant is None else f"{name}, which may be meant for {meant}"
        for name, meant in list(ignored.items())[:5]
    )
    more = f" and {len(ignored) - 5} more" if len(ignored) > 5 else ""
    what = "a setting" if len(ignored) == 1 else f"{len(ignored)} settings"
    return f"config.json has {what} that transformers ignores for this model ({shown}{more})"


def _ignored(config: Any, settings: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Settings that nothing reads, and the known setting whose name is nearly the same."""
    from transformers.modeling_rope_utils import RopeParameters

    for part, given in _parts(config, settings):
        known = _known(part)
        turns = "rope_parameters" in known
        for name, value in given.items():
            unread = name in vars(part) and name not in known and not HARMLESS.fullmatch(name)
            if not unread and (turns or name != "rope_scaling"):
                continue
            declared = [one for one in (*vars(part), *part.attribute_map) if one in known]
            meant = next(iter(difflib.get_close_matches(name, declared, 1, _SUGGESTION)), None)
            if value or (meant and value is not None):  # an unknown switch that is off says nothing
                yield name, meant
        for name in ("rope_scaling", "rope_parameters") if turns else ():
            for table in _tables(given.get(name)):
                numbers = {key for key, value in table.items() if not isinstance(value, dict)}
                for key in sorted(
                    numbers - known - _ROPE_TYPES - RopeParameters.__annotations__.keys()
                ):
                    yield f"{name}.{key}", None


def _known(config: Any) -> set[str]:
    """The settings that a config's class declares, or that the code of its models reads."""
    from transformers import GenerationConfig, PreTrainedConfig

    untyped: Any = GenerationConfig
    known = {*dir(type(config)), *config.attribute_map, *untyped().to_dict(), "tie_word_embeddings"}
    for cls in type(config).__mro__:
        if issubclass(cls, PreTrainedConfig):
            known.update(inspect.get_annotations(cls))
            own = Path(inspect.getfile(cls)).parent.glob("*_*.py")
            for file in own if cls is not PreTrainedConfig else ():
                text = file.read_text("utf-8")
                known.update(*re.findall(r"config\.(\w+)|[\"'](\w+)[\"']", text))
                if file.name.startswith("configuration"):  # what it computes from other settings
                    known.update(re.findall(r"self\.(\w+) = ", text))
    return known


def _require_rope_types(config: Any, settings: Mapping[str, Any], what: str) -> None:
    """Refuse rotary positions that are scaled in no way, or in none that transformers knows."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for part, given in _parts(config, settings):
        if "rope_parameters" not in _known(part):
            continue
        _require_one_rope(part, given, what)
        known = {*ROPE_INIT_FUNCTIONS, "default", part.default_rope_type}
        for kind in (
            table.get("rope_type") for table in _tables(vars(part).get("rope_parameters"))
        ):
            if kind is not None and kind not in known:
                raise CheckpointError(
                    f"{what} scales rotary positions by {kind!r} (rope_type in config.json), which "
                    f"is none of {', '.join(sorted(known))}: correct it, or update transformers."
                )
        for name in ("rope_scaling", "rope_parameters"):
            for table in _tables(given.get(name)):
                scaling = table.keys() - {"partial_rotary_factor"}
                factor = next((key for key in scaling if key.endswith("factor")), None)
                if factor is not None and not _ROPE_TYPES & table.keys():
                    raise CheckpointError(
                        f"{what} sets {factor} in {name} of config.json without a rope_type, so "
                        "transformers would scale nothing: add the rope_type that is meant."
                    )


def _require_one_rope(config: Any, given: Mapping[str, Any], what: str) -> None:
    """Refuse settings in rope_parameters that give way to rope_scaling or to its defaults."""
    if not (given.get("rope_scaling") and isinstance(given.get("rope_parameters"), dict)):
        return
    taken = {"rope_parameters": vars(config).get("rope_parameters")}
    for path, value in _leaves({"rope_parameters": given["rope_parameters"]}):
        found: Any = taken
        for key in (*path[:-1], "rope_type" if path[-1] == "type" else path[-1]):
            found = found.get(key) if isinstance(found, dict) else None
        if value not in (None, "default", found):
            raise CheckpointError(
                f"{what} says in config.json how positions are rotated in rope_scaling and in "
                f"rope_parameters, and transformers would take the former ({'.'.join(path)} is "
                f"{value!r} in the file and {found!r} to it): say all in rope_parameters, and "
                "remove rope_scaling."
            )


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is no table in a table, with the names that lead there."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from (((name, *path), leaf) for path, leaf in _leaves(value))
        else:
            yield (name,), value


def _tables(value: Any) -> list[dict[str, Any]]:
    """The settings of rotary positions: one table, or one for each kind of layers in it."""
    if not isinstance(value, dict):
        return []
    return [value, *(inner for inner in value.values() if isinstance(inner, dict))]


def _require_quantizer(config: Any, settings: Mapping[str, Any], what: str) -> None:
    """Refuse weights that are said to be quantised in a way that nothing here would undo."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    for part, given in _parts(config, settings):
        table = given.get("quantization_config") or {}
        method = table.get("quant_method")
        in_bits = any(table.get(name) for name in _BITS)  # bitsandbytes, whatever else is said
        if table and not in_bits and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
            raise CheckpointError(
                f"{what} is quantised, but transformers has no quantizer for the quant_method "
                f"{method!r} in config.json, so its codes would be taken for weights: save it in "
                "floating point, or update transformers."
            )
        known = _known(part)
        for name, value in given.items():
            if value and name not in known and _QUANTISED.fullmatch(name):
                raise CheckpointError(
                    f"{what} says in config.json that it is quantised ({name}), but has no "
                    "quantization_config that transformers can read: save it in floating point, "
                    "or, if its weights are, remove that setting."
                )


def _parts(config: Any, settings: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """A config and those of its parts, each with its settings in the file."""
    yield config, settings
    for name, value in settings.items():
        part = vars(config).get(name)
        if isinstance(value, dict) and hasattr(part, "to_diff_dict"):
            yield from _parts(part, value)
