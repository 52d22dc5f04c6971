"""Writes robustness/known/*.json: what tracing finds on small skeletons, for scans without torch.

``python -m tests.support.checkpoints.write_anatomies [CLASS ...]``; all classes where none is
named. What is tried stands in `anatomy_trials`. A class whose layers do not all look
alike is refused.
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

from robustness.anatomy.known_anatomies import FOLDER, PER_LAYER, SCHEMA, instantiate, spelled
from robustness.anatomy.site_weights import traced
from robustness.anatomy.stacks import ANATOMY_SCHEMA
from robustness.checkpoint.architecture import candidates
from robustness.checkpoint.skeleton import map_names
from robustness.checkpoint.verification import load_config
from robustness.checkpoint.weights import TensorInfo
from robustness.errors import RobustnessError
from tests.support.checkpoints.anatomy_trials import (
    CLASSES,
    FOREIGN,
    PER_LAYER_VALUES,
    RANGES,
    SIZES,
    TEXTS,
    VALUES,
    Settings,
)


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
        tied = getattr(self.skeleton, "_tied_weights_keys", None) or ()
        first: dict[int, str] = {}
        for name, value in sorted(parameters, key=lambda one: one[0] in tied):
            first.setdefault(id(value), name)
        self.optional = {name for name, value in parameters if first[id(value)] != name}
        """Those that are another one, which files may leave out."""


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
        values = [value for value in (None, 0, 1, 2, 3) if same({key: value})]
        if {0, 1} <= {*values} and same({key: base["vocab_size"] - 1}):
            nothing = {"values": [None]} if None in values else {}
            rules[key] = {"below": "vocab_size", "default": defaults[key], **nothing}
            if same({key: [0, 1]}):
                rules[key]["several"] = True
        elif values:
            rules[key] = {"values": values}
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
        "written_by": "python -m tests.support.checkpoints.write_anatomies",
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
