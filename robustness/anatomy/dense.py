"""The dense layers within a model's layers, found by what they do, and which features they carry.

A dense layer is a module that multiplies its input by a matrix it owns and adds at most a vector,
whatever its class is called: ``nn.Linear`` with weights (out, in), GPT-2's ``Conv1D`` with (in,
out). That is tried out on random numbers; no parameter's value is read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robustness.anatomy.chains import chains
from robustness.anatomy.layers import Reader
from robustness.anatomy.probing import ParameterRoles, is_dense
from robustness.anatomy.stacks import Stack
from robustness.anatomy.tracing import Call, record
from robustness.errors import UnsupportedArchitecture, UnsupportedSite


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """One dense layer.

    Attributes:
        module: Qualified name.
        weight: Name within the module of its matrix.
        bias: Name within the module of what is added, None where there is nothing.
        out_axis: Axis of the matrix that indexes the output: 0 of (out, in), 1 of (in, out).
        reads: Whether its input features are the hidden dimensions of the vetted stack: it is the
            layer's input or what a normalisation made of the residual stream.
        writes: Whether its output features are, since it is added to the residual stream.
    """

    module: str
    weight: str
    bias: str | None
    out_axis: int
    reads: bool
    writes: bool


def dense_layers(
    model: nn.Module, inputs: Mapping[str, Tensor], stack: Stack
) -> tuple[DenseLayer, ...]:
    """All dense layers within the layers of all of a model's stacks, in order of execution.

    Embeddings and the head lie outside of the layers and are not among them.

    Args:
        model: Left as it was.
        inputs: Of its forward pass, a few tokens.
        stack: The one that is vetted, whose dimensions are meant by `DenseLayer.reads`.

    Raises:
        UnsupportedArchitecture: There is none, or the forward pass failed.
    """
    reader = Reader(trace=record(model, inputs))
    vetted = {site.layer_module for site in stack.layers}
    layers: dict[str, DenseLayer] = {}
    for layer in (call for chain in chains(reader) for call in chain):
        path = reader.residual_path(layer.outputs[0])
        entering = _entering(reader, layer) if layer.name in vetted else None
        for call in layer.descendants():
            roles = _roles(call)
            if roles is None:
                continue
            reads = entering is not None and any(
                entering in reader.residual_path(value) for value in call.inputs
            )
            writes = entering is not None and call.outputs[0] in path
            before = layers.get(call.name)  # of a module that several layers share
            layers[call.name] = DenseLayer(
                module=call.name,
                weight=roles.scale,
                bias=roles.bias,
                out_axis=roles.feature_axis,
                reads=reads or (before is not None and before.reads),
                writes=writes or (before is not None and before.writes),
            )
    if not layers:
        raise UnsupportedArchitecture(
            f"{type(model).__name__} has no dense layers within its layers: modules were looked "
            "for that multiply by a matrix of their own."
        )
    return tuple(layers.values())


def _entering(reader: Reader, layer: Call) -> int | None:
    try:
        return reader.entering(layer)
    except UnsupportedSite:
        return None


def _roles(call: Call) -> ParameterRoles | None:
    return is_dense(call) if call.owns_parameters and not call.children else None


def named_modules(
    model: nn.Module, layers: tuple[DenseLayer, ...]
) -> Iterator[tuple[DenseLayer, nn.Module]]:
    """The layers with their modules."""
    return ((layer, model.get_submodule(layer.module)) for layer in layers)
