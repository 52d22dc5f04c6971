"""A model's stacks of layers and their output sites, as plain data without torch.

They are found by `robustness.anatomy.trace_anatomy`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from robustness.errors import UnsupportedArchitecture

ANATOMY_SCHEMA = 2

Role: TypeAlias = Literal["only", "encoder", "decoder", "unknown"]
StackChoice: TypeAlias = Literal["auto", "encoder", "decoder"]


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
        role: ``only`` where the model has no other stack; ``encoder`` where the layers of another
            one read what this one returns, ``decoder`` of the other one; else ``unknown``.
        hidden_size: Number of output features, D.
        sites: One output site per layer, in order.
    """

    name: str
    role: Role
    hidden_size: int
    sites: tuple[Site, ...]

    @property
    def n_layers(self) -> int:
        """The number of layers, counting a shared layer as often as it is executed."""
        return len(self.sites)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """All stacks of a model, and which of them is vetted.

    Attributes:
        stacks: In order of execution.
        choice: ``auto`` for the only stack, or the decoder where there are several: its output
            leads to the head; ``encoder`` or ``decoder`` for the one of that role.
    """

    stacks: tuple[Stack, ...]
    choice: StackChoice = "auto"

    @property
    def stack(self) -> Stack:
        """The stack that is vetted.

        Raises:
            UnsupportedArchitecture: There is none of that description, or more than one.
        """
        if len(self.stacks) == 1 and self.choice == "auto":
            return self.stacks[0]
        wanted = "decoder" if self.choice == "auto" else self.choice
        found = [stack for stack in self.stacks if stack.role == wanted]
        if len(found) == 1:
            return found[0]
        raise UnsupportedArchitecture(self._no_stack(wanted, len(found)))

    def _no_stack(self, wanted: str, found: int) -> str:
        if len(self.stacks) == 1:
            return (
                f"The model has one stack of layers, {self.stacks[0].name!r}, and neither encoder "
                f"nor decoder beside it, so the stack {wanted!r} cannot be chosen; use 'auto'."
            )
        names = ", ".join(f"{stack.name!r} ({stack.role})" for stack in self.stacks)
        return (
            f"The model has {len(self.stacks)} stacks of layers ({names}), of which {found}, not "
            f"one, is its {wanted}: what is vetted has to be one stack, or the encoder or the "
            "decoder of two."
        )

    @property
    def hidden_size(self) -> int:
        """The number of output features, D, of the stack that is vetted."""
        return self.stack.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the number of their schema."""
        stacks = [
            {**asdict(stack), "sites": [asdict(site) for site in stack.sites]}
            for stack in self.stacks
        ]
        return {"schema": ANATOMY_SCHEMA, "choice": self.choice, "stacks": stacks}

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
        return cls(stacks=tuple(stacks), choice=data["choice"])


def distinct_sites(stack: Stack) -> int:
    """The number of different modules among a stack's sites: 1 where the layers share theirs."""
    return len({site.module for site in stack.sites})
