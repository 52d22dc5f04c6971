"""What a model is made of, found by running it: its stacks of layers and their output sites.

No table of architectures is behind this. One forward pass is recorded (`robustness.tracing`), the
layers and what writes their outputs are read from the record (`robustness.layers`), and the modules
found are called on random numbers to learn what they do (`robustness.probing`). None of it reads
the values of the parameters, so a skeleton of the model without weights serves as well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from robustness.errors import UnsupportedArchitecture, UnsupportedSite
from robustness.layers import Reader, Writer
from robustness.tracing import Call, Trace, outputs_of, record

ANATOMY_SCHEMA = 1

RowLayout: TypeAlias = tuple[int | None, Literal["batch-major", "time-major"] | None]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the output features of one layer can be switched off.

    Attributes:
        module: Qualified name of the module whose output carries the features, on the last axis.
        layer_module: Qualified name of the layer, within whose call the module is called.
        execution: Which call of that layer module within one call of the stack, from 0. Where the
            layers share one module (ALBERT), this is the index of the layer.
        layer: Index of the layer within its stack.
        kind: ``norm`` where the module's output is the layer's output, ``writer`` where it is the
            last thing added to the residual stream.
        scale: Name of the parameter that scales the features: a vector, or a dense weight.
        bias: Name of the vector added to the features, None where there is none.
        feature_axis: Axis of the scale that indexes the features: 0 of a vector or an
            ``(out, in)`` weight, 1 of an ``(in, out)`` weight.
        batch_axis: Axis of the module's output that indexes the rows of the batch; None where none
            was found.
        flattened: None where that axis is the batch itself; where it is the product of batch and
            time, which of the two varies slowest.
    """

    module: str
    layer_module: str
    execution: int
    layer: int
    kind: Literal["norm", "writer"]
    scale: str
    bias: str | None
    feature_axis: int
    batch_axis: int | None
    flattened: Literal["batch-major", "time-major"] | None = None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A run of layers, such as an encoder.

    Attributes:
        name: Qualified name of the module that calls the layers.
        hidden_size: Number of output features, D.
        sites: One output site per layer, in order.
    """

    name: str
    hidden_size: int
    sites: tuple[Site, ...]

    @property
    def n_layers(self) -> int:
        """The number of layers, counting a shared layer as often as it is executed."""
        return len(self.sites)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """All stacks of a model."""

    stacks: tuple[Stack, ...]

    @property
    def stack(self) -> Stack:
        """The only stack.

        Raises:
            UnsupportedArchitecture: There are several.
        """
        if len(self.stacks) != 1:
            raise UnsupportedArchitecture(
                f"The model has {len(self.stacks)} stacks of layers "
                f"({', '.join(repr(stack.name) for stack in self.stacks)}); choose one by name."
            )
        return self.stacks[0]

    @property
    def hidden_size(self) -> int:
        """The number of output features, D, of all stacks.

        Raises:
            UnsupportedArchitecture: The stacks differ in it.
        """
        sizes = {stack.hidden_size for stack in self.stacks}
        if len(sizes) != 1:
            raise UnsupportedArchitecture(
                f"The model's stacks have different hidden sizes ({sorted(sizes)}); choose a stack."
            )
        return sizes.pop()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the number of their schema."""
        stacks = [
            {**asdict(stack), "sites": [asdict(site) for site in stack.sites]}
            for stack in self.stacks
        ]
        return {"schema": ANATOMY_SCHEMA, "stacks": stacks}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Anatomy":
        """The inverse of `to_dict`.

        Raises:
            ValueError: The data has another schema.
        """
        if data.get("schema") != ANATOMY_SCHEMA:
            raise ValueError(
                f"an anatomy of schema {data.get('schema')!r} was read where {ANATOMY_SCHEMA} is "
                "understood"
            )
        stacks = (
            Stack(**{**stack, "sites": tuple(Site(**site) for site in stack["sites"])})
            for stack in data["stacks"]
        )
        return cls(stacks=tuple(stacks))


def distinct_sites(stack: Stack) -> int:
    """The number of different modules among a stack's sites: 1 where the layers share theirs."""
    return len({site.module for site in stack.sites})


def trace_anatomy(model: nn.Module, inputs: Mapping[str, Tensor]) -> Anatomy:
    """Find a model's stacks of layers and their output sites by running it.

    The model is left as it was, and its parameters' values are not read.

    Args:
        model: Any model of repeated layers, or a skeleton of it.
        inputs: Keyword arguments of its forward pass, with the batch on the first axis of each:
            two rows that differ, of a few tokens each.

    Raises:
        UnsupportedArchitecture: The forward pass failed or has no repeated layers.
        UnsupportedSite: A layer has no output site that could be read and switched off.
    """
    trace = record(model, inputs)
    reader = Reader(trace=trace)
    chains = reader.chains()
    if not chains:
        raise UnsupportedArchitecture(_no_layers(model, trace))
    writers = [[reader.writer(layer) for layer in chain] for chain in chains]
    modules = {writer.call.name for chain in writers for writer in chain}
    rows = _row_layouts(model, inputs, modules)
    return Anatomy(
        stacks=tuple(
            _stack(reader, chain, of, rows) for chain, of in zip(chains, writers, strict=True)
        )
    )


def _stack(
    reader: Reader, layers: list[Call], writers: list[Writer], rows: Mapping[str, RowLayout]
) -> Stack:
    caller = _common_caller(layers)
    executions = _executions(layers, caller)
    sites = []
    for index, (layer, writer) in enumerate(zip(layers, writers, strict=True)):
        name = writer.call.name
        if writer.call.shape[-1] != layer.shape[-1]:
            raise UnsupportedSite(
                f"{name!r} writes the output of the layer {layer.name!r} as a tensor of shape "
                f"{writer.call.shape}, whose last axis is not the layer's {layer.shape[-1]} "
                "features."
            )
        roles = reader.parameter_roles(writer.call)
        batch_axis, flattened = rows[name]
        site = Site(
            module=name,
            layer_module=layer.name,
            execution=executions[index],
            layer=index,
            kind="norm" if writer.is_output else "writer",
            scale=f"{name}.{roles.scale}",
            bias=f"{name}.{roles.bias}" if roles.bias is not None else None,
            feature_axis=roles.feature_axis,
            batch_axis=batch_axis,
            flattened=flattened,
        )
        sites.append(site)
    return Stack(name=caller.name, hidden_size=layers[0].shape[-1], sites=tuple(sites))


def _common_caller(layers: list[Call]) -> Call:
    """The innermost call from within which all layers were called."""
    lines = [[*layer.ancestors()][::-1] for layer in layers]
    shared = takewhile(lambda calls: len(set(calls)) == 1, zip(*lines, strict=False))
    caller: Call = [*shared][-1][0]
    return caller


def _executions(layers: list[Call], caller: Call) -> list[int]:
    """For each layer, which call of its module within the call of the stack it is."""
    calls: dict[str, list[Call]] = {layer.name: [] for layer in layers}
    for call in caller.descendants():
        if call.name in calls:
            calls[call.name].append(call)
    if sum(map(len, calls.values())) != len(layers):
        raise UnsupportedArchitecture(
            f"{caller.name!r} calls the module of one of its {len(layers)} layers again outside of "
            "their run, so they cannot be told apart."
        )
    return [calls[layer.name].index(layer) for layer in layers]


def _row_layouts(
    model: nn.Module, inputs: Mapping[str, Tensor], modules: Iterable[str]
) -> dict[str, RowLayout]:
    """Where each module's output carries the rows of the batch, found by changing one row."""
    n_rows = next((tensor.shape[0] for tensor in inputs.values() if tensor.ndim), 0)
    if n_rows < 2:
        return dict.fromkeys(modules, (None, None))
    changed = {
        name: torch.cat([tensor[1:2], tensor[1:]])
        if tensor.ndim and tensor.shape[0] == n_rows
        else tensor
        for name, tensor in inputs.items()
    }
    before = outputs_of(model, inputs, modules)
    after = outputs_of(model, changed, modules)
    layouts = {}
    for name, outputs in before.items():
        found = {_row_layout(*pair, n_rows) for pair in zip(outputs, after[name], strict=True)}
        layouts[name] = found.pop() if len(found) == 1 else (None, None)
    return layouts


def _row_layout(before: Tensor, after: Tensor, n_rows: int) -> RowLayout:
    """The axis along which nothing changed but what belongs to the first row."""
    if before.shape != after.shape:
        return None, None
    changed = ~torch.isclose(before, after, rtol=1e-4, atol=1e-6, equal_nan=True)
    layouts: list[RowLayout] = []
    for axis in range(before.ndim - 1):
        where = changed.movedim(axis, 0).flatten(1).any(1).nonzero().flatten()  # changed indices
        size = before.shape[axis]
        if size % n_rows or not len(where):
            continue
        if size == n_rows:
            layouts += [(axis, None)] if where.max() == 0 else []
        else:
            layouts += [(axis, "batch-major")] if where.max() < size // n_rows else []
            layouts += [(axis, "time-major")] if not (where % n_rows).any() else []
    return layouts[0] if len(layouts) == 1 else (None, None)


def _no_layers(model: nn.Module, trace: Trace) -> str:
    return (
        f"{type(model).__name__} has no repeated layers: calls of one module class were looked for "
        "that follow one another on a residual path, and none were seen among "
        f"{len(trace.calls)} module calls."
    )
