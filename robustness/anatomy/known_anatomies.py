"""Anatomies written down beforehand, so that a first scan needs neither torch nor transformers.

What a model is made of is found by running it, never by a table of names (`anatomy`).
The files in the folder ``known`` are no such table: each is what tracing found on small skeletons
of a class, of several sizes, with the layer's number left open, and a test traces again and
compares. Nothing in them is trusted beyond what was tried. A checkpoint is recognised only if

- every setting in its config.json is one that tracing was tried with, at that value or in that
  range, and was found to change nothing; what it does not set is the default that was traced;
- every tensor of the class is in the files' headers, for all layers, with the shape that the
  config asks for where the two were seen to go together, and the same shape in all layers;
- no other tensor in the headers has a number in its name, as those of further layers would.

Any other checkpoint is traced. The files are written by
``python -m tests.support.checkpoints.write_anatomies``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustness.anatomy.stacks import ANATOMY_SCHEMA, StackChoice
from robustness.checkpoint.weights import TensorInfo, read_json

SCHEMA = 1
"""Of the files; one of another schema is not read."""

FOLDER = Path(__file__).parent / "known"

PER_LAYER = ("layers", "output_sites", "attention_norms")
"""What of a stack has one item for each layer."""

_MOST_LAYERS = 10_000
_MOST = 10_000_000  # of any size: a config that asks for more is looked at more closely
_NUMBERED = re.compile(r"(?:^|\.)\d+\.")


def known_layout(
    folder: Path, tensors: Mapping[str, TensorInfo], stack: StackChoice
) -> dict[str, Any] | None:
    """Where a checkpoint's sites are, and what their parameters are called in its files.

    Args:
        folder: The checkpoint's folder.
        tensors: What the headers of its files say.
        stack: Which stack is asked for, of several.

    Returns:
        The architecture, the anatomy in JSON types, and the names in the files by the names in
        the model, as tracing would have found them; ``None`` where the checkpoint is not known.

    Raises:
        CheckpointError: Its config.json is damaged.
    """
    settings = read_json(folder / "config.json")
    declared = settings.get("architectures")
    name = declared[0] if isinstance(declared, list) and declared else None
    if name not in [file.stem for file in FOLDER.glob("*.json")]:
        return None
    known = json.loads((FOLDER / f"{name}.json").read_bytes())
    if (known["schema"], known["anatomy_schema"]) != (SCHEMA, ANATOMY_SCHEMA):
        return None
    for entry in known["entries"]:
        sizes = matching_sizes(entry, settings)
        spelling = None if sizes is None else _spelling(entry, sizes, tensors)
        if sizes is not None and spelling is not None:
            stacks = [instantiate(one, sizes) for one in entry["stacks"]]
            parameters = {
                site[part] for one in stacks for site in one["output_sites"]
                for part in ("scale", "bias") if site[part] is not None
            }  # fmt: skip
            return {
                "architecture": name,
                "anatomy": {"schema": ANATOMY_SCHEMA, "choice": stack, "stacks": stacks},
                "stored": {parameter: spelling[parameter] for parameter in sorted(parameters)},
            }
    return None


def matching_sizes(
    entry: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, int | None] | None:
    """The sizes that a config.json asks for; ``None`` where it sets what was not tried."""
    rules: Mapping[str, Mapping[str, Any]] = entry["settings"]
    if any(rule.get("required") and key not in settings for key, rule in rules.items()):
        return None
    sizes: dict[str, int | None] = {}
    for key, rule in rules.items():
        if "at_least" in rule:
            sizes[key] = settings.get(key, rule["default"])
            if key in settings and not _was_tried(settings[key], rule, {}):
                return None
    for key, value in settings.items():
        if key in sizes or key == "architectures":
            continue
        if key not in rules or not _was_tried(value, rules[key], sizes):
            return None
    for larger, smaller, factor in entry["multiples"]:
        a, b = sizes[larger], sizes[smaller]
        if not a or not b or a % (b * factor):
            return None
    for key, rule in rules.items():
        if "below" in rule and not _was_tried(settings.get(key, rule["default"]), rule, sizes):
            return None
    layers = (sizes[one["n_layers"]] for one in entry["stacks"])
    return sizes if all(n is not None and n <= _MOST_LAYERS for n in layers) else None


def _was_tried(value: Any, rule: Mapping[str, Any], sizes: Mapping[str, int | None]) -> bool:
    """Whether a setting's value is one of those that are known to change nothing."""
    if any(value == one and _json(value) == _json(one) for one in rule.get("values", ())):
        return True
    if type(value) is int and "at_least" in rule:
        return bool(rule["at_least"] <= value <= _MOST)
    if "below" in rule:
        limit = sizes[rule["below"]] or 0
        several = value if type(value) is list and value and "several" in rule else [value]
        return all(type(one) is int and 0 <= one < limit for one in several)
    if type(value) is str and rule.get("any_text"):
        return True
    if type(value) is list and "per_layer" in rule:
        number, items = rule["per_layer"]
        return len(value) == sizes[number] and all(item in items for item in value)
    return any(
        type(value) is type(low) and low <= value <= high for low, high in rule.get("between", ())
    )


def _json(value: Any) -> str:
    """For comparison: 1, 1.0 and true are different settings."""
    return json.dumps(value, sort_keys=True)


def _spelling(
    entry: Mapping[str, Any],
    sizes: Mapping[str, int | None],
    tensors: Mapping[str, TensorInfo],
) -> dict[str, str] | None:
    """Names in the files by names in the model, in the spelling that the files are written in."""
    for spelling in entry["spellings"]:
        names: dict[str, str] = {}
        for tensor in entry["tensors"]:
            written = spelled(tensor["name"], spelling)
            number = tensor.get("layers")
            n = 1 if number is None else sizes[number] or 0
            found = [tensors.get(written.format(i)) for i in range(n)]
            if not _fits(found, tensor["shape"], sizes):
                if any(found) or not tensor.get("optional"):
                    break
                continue
            names.update((tensor["name"].format(i), written.format(i)) for i in range(n))
        else:
            known = {*names.values()}
            ignored = [re.compile(pattern) for pattern in entry["ignored"]]
            strangers = (name for name in tensors if name not in known and _NUMBERED.search(name))
            if all(any(one.search(name) for one in ignored) for name in strangers):
                return names
    return None


def spelled(name: str, spelling: Mapping[str, Any]) -> str:
    """A parameter's name in files: without the base model's prefix, or with older endings."""
    name = name.removeprefix(spelling["without"])
    for new, old in spelling["instead"].items():
        name = name.replace(new, old)
    return name


def _fits(
    found: Sequence[TensorInfo | None],
    shape: Sequence[tuple[int, str] | int | None],
    sizes: Mapping[str, int | None],
) -> bool:
    """Whether a tensor is there in all layers, with the same and the expected shape."""
    shapes = {None if info is None else info.shape for info in found}
    if len(shapes) != 1 or None in shapes:
        return False
    (actual,) = shapes
    assert actual is not None
    return len(actual) == len(shape) and all(
        expected is None or length == (_length(expected, sizes))
        for length, expected in zip(actual, shape, strict=True)
    )


def _length(axis: Sequence[Any] | int, sizes: Mapping[str, int | None]) -> int | None:
    if isinstance(axis, int):
        return axis
    factor, key = axis
    size = sizes[key]
    return None if size is None else factor * size


def instantiate(stack: Mapping[str, Any], sizes: Mapping[str, int | None]) -> dict[str, Any]:
    """A stack of the given sizes, in JSON types."""
    n = sizes[stack["n_layers"]] or 0
    made = {key: value for key, value in stack.items() if key != "n_layers"}
    made["hidden_size"] = sizes[stack["hidden_size"]]
    for part in PER_LAYER:
        made[part] = [
            {field: _numbered(value, i) for field, value in place.items()}
            for i in range(n)
            for place in stack[part]
        ]
    return made


def _numbered(value: Any, layer: int) -> Any:
    """A field of a layer's place; ``{}``, alone or in a text, is the layer's number."""
    if value == "{}":
        return layer
    return value.format(layer) if isinstance(value, str) else value
