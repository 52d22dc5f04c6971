"""What a model is made of, found by running it: its stacks of layers and their output sites.

No table of architectures is behind this. One forward pass is recorded (`robustness.tracing`), the
layers and what writes their outputs are read from the record (`robustness.layers`), and the modules
found are called on random numbers to learn what they do (`robustness.probing`). None of it reads
the values of the parameters, so a skeleton of the model without weights serves as well.
"""

from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from robustness.errors import UnsupportedArchitecture, UnsupportedSite
from robustness.layers import Reader, Writer
from robustness.stacks import Anatomy, Role, Site, Stack, StackChoice, distinct_sites
from robustness.tracing import Call, Trace, outputs_of, record

__all__ = ["Anatomy", "Site", "Stack", "distinct_sites", "trace_anatomy"]

RowLayout: TypeAlias = tuple[int | None, Literal["batch-major", "time-major"] | None]


def trace_anatomy(
    model: nn.Module, inputs: Mapping[str, Tensor], *, stack: StackChoice = "auto"
) -> Anatomy:
    """Find a model's stacks of layers and their output sites by running it.

    The model is left as it was, and its parameters' values are not read.

    Args:
        model: Any model of repeated layers, or a skeleton of it.
        inputs: Keyword arguments of its forward pass, with the batch on the first axis of each:
            two rows that differ, of a few tokens each.
        stack: Which stack is vetted, see `Anatomy`; all of them are found.

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
            _stack(reader, chain, role, of, rows)
            for chain, role, of in zip(chains, _roles(reader, chains), writers, strict=True)
        ),
        choice=stack,
    )


def _roles(reader: Reader, chains: list[list[Call]]) -> list[Role]:
    """The part that each run of layers plays beside the others.

    The layers of a decoder, beyond the first, are called with something that was made from the
    encoder's output and not from their own predecessor's.
    """
    if len(chains) == 1:
        return ["only"]
    roles: list[Role] = ["unknown"] * len(chains)
    for i, encoder in enumerate(chains):
        for j, decoder in enumerate(chains):
            if i != j and _is_read(reader, encoder, decoder):
                roles[i], roles[j] = "encoder", "decoder"
    return roles


def _is_read(reader: Reader, encoder: list[Call], decoder: list[Call]) -> bool:
    """Whether every layer of the second run but the first reads the output of the first run."""
    from_encoder = reader.made_from(encoder[-1].outputs[0])
    from_decoder = reader.made_from(decoder[0].outputs[0])
    return all(
        any(value in from_encoder and value not in from_decoder for value in layer.inputs)
        for layer in decoder[1:]
    )


def _stack(
    reader: Reader,
    layers: list[Call],
    role: Role,
    writers: list[Writer],
    rows: Mapping[str, RowLayout],
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
    return Stack(name=caller.name, role=role, hidden_size=layers[0].shape[-1], sites=tuple(sites))


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
