"""A model's stacks of layers and their output sites, as plain data without torch.

They are found by `robustness.anatomy.anatomy.trace_anatomy`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from robustness.errors import UnsupportedArchitecture, UnsupportedSite

ANATOMY_SCHEMA = 3

Role: TypeAlias = Literal["only", "encoder", "decoder", "unknown"]
StackChoice: TypeAlias = Literal["auto", "encoder", "decoder"]
SiteKind: TypeAlias = Literal["norm", "writer", "reader"]
READING_NORMS = (
    "its layers have no output site, as in a mixture of experts: rules on weights read the last "
    "norm in each layer that reads the residual stream"
)
"""What users are told of a stack with `Stack.reading_norms`."""

EMBEDDING = -1
"""The number, in the place of a layer's, of what lies between the embedding and the first layer."""


@dataclass(frozen=True, kw_only=True)
class HookPoint:
    """Where the features of one layer can be switched off.

    Attributes:
        module: Qualified name of the module whose output carries the features, on the last axis.
        layer_module: Qualified name of the layer, within whose call the module is called.
        execution: Which call of that layer module within one call of the stack, from 0. Where the
            layers share one module (ALBERT), this is the index of the layer.
        layer: Index of the layer within its stack, or `EMBEDDING`.
        batch_axis: Axis of the module's output that indexes the rows of the batch; None where none
            was found.
        flattened: None where that axis is the batch itself; where it is the product of batch and
            time, which of the two varies slowest.
    """

    module: str
    layer_module: str
    execution: int
    layer: int
    batch_axis: int | None
    flattened: Literal["batch-major", "time-major"] | None = None


@dataclass(frozen=True, kw_only=True)
class Site(HookPoint):
    """The output site of a layer, whose parameters say which dimensions stand out.

    Attributes:
        kind: ``norm`` where the module's output is the layer's output, ``writer`` where it is the
            last thing added to the residual stream, ``reader`` where it is a norm that only reads
            that stream.
        scale: Name of the parameter that scales the features: a vector, or a dense weight.
        bias: Name of the vector added to the features, None where there is none.
        feature_axis: Axis of the scale that indexes the features: 0 of a vector or an
            ``(out, in)`` weight, 1 of an ``(in, out)`` weight.
    """

    kind: SiteKind
    scale: str
    bias: str | None
    feature_axis: int


@dataclass(frozen=True, kw_only=True)
class StackInput:
    """A module that is handed what enters the first layer.

    Attributes:
        module: Its qualified name.
        argument: Which argument carries the features: a position, or a keyword.
        execution: Which of its calls within one call of the stack; None where it calls the stack,
            or is the stack.
    """

    module: str
    argument: int | str
    execution: int | None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A run of layers, such as an encoder.

    Attributes:
        name: Qualified name of the module that calls the layers.
        role: ``only`` where the model has no other stack; ``encoder`` where the layers of another
            one read what this one returns, ``decoder`` of the other one; else ``unknown``.
        hidden_size: Number of output features, D.
        layers: The layers' whole outputs, in order.
        output_sites: One output site per layer, in order; none where they have none.
        why_no_output_sites: One sentence, where there are none.
        reading_norms: Where there are none, the last norm in each layer that reads the residual
            stream, such as the one before a mixture of experts.
        attention_norms: One norm per layer, see `layers.Reader.attention_norm`; none
            unless all layers have one.
        embedding_norm: The norm between the embedding and the first layer.
        entries: All modules that read what enters the first layer; none where it cannot be
            switched off, since it is read outside of any module.
        resumable: Whether everything that a layer and what follows it reads of the layers before
            it is in the return value of the layer before.
    """

    name: str
    role: Role
    hidden_size: int
    layers: tuple[HookPoint, ...]
    output_sites: tuple[Site, ...]
    why_no_output_sites: str = ""
    reading_norms: tuple[Site, ...] = ()
    attention_norms: tuple[HookPoint, ...] = ()
    embedding_norm: HookPoint | None = None
    entries: tuple[StackInput, ...] = ()
    resumable: bool = False

    @property
    def n_layers(self) -> int:
        """The number of layers, counting a shared layer as often as it is executed."""
        return len(self.layers)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The layers' output sites.

        Raises:
            UnsupportedSite: They have none.
        """
        if not self.output_sites:
            raise UnsupportedSite(self.why_no_output_sites)
        return self.output_sites

    @property
    def rule_sites(self) -> tuple[Site, ...]:
        """One for each layer, whose parameters the rules on weights read.

        Raises:
            UnsupportedSite: There are neither output sites nor norms that read the residual stream.
        """
        return self.reading_norms or self.sites

    def at(self, site: str) -> tuple[HookPoint, ...]:
        """The places of a kind: one per layer, or the only one between embedding and first layer.

        Args:
            site: One of `robustness.ablation.ablation.SITES`.

        Raises:
            UnsupportedSite: The model has no such place.
        """
        if site == "output":
            return self.sites
        if site == "residual":
            return self.layers
        if site == "attention-norm":
            sites = self.attention_norms
            what = "norm within every layer, behind the attention and before the layer's output,"
        else:
            sites = () if self.embedding_norm is None else (self.embedding_norm,)
            what = f"norm of {self.hidden_size} features between the embedding and the first layer"
        if not sites:
            raise UnsupportedSite(
                f"{self.name or 'The model'!r} has no {what} on the residual path, so it has no "
                f"site {site!r}; it has {self._described()}."
            )
        return sites

    def available(self) -> tuple[str, ...]:
        """The sites that there are."""
        return tuple(
            site
            for site, present in (
                ("output", self.output_sites),
                ("residual", self.layers),
                ("attention-norm", self.attention_norms),
                ("embedding-norm", self.embedding_norm),
            )
            if present
        )

    def _described(self) -> str:
        *others, last = map(repr, self.available())
        return f"{', '.join(others)} and {last}" if others else last


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
        matching = [stack for stack in self.stacks if stack.role == wanted]
        if len(matching) == 1:
            return matching[0]
        raise UnsupportedArchitecture(self._no_stack(wanted, len(matching)))

    def _no_stack(self, wanted: str, n_matching: int) -> str:
        if len(self.stacks) == 1:
            return (
                f"The model has one stack of layers, {self.stacks[0].name!r}, and neither encoder "
                f"nor decoder beside it, so the stack {wanted!r} cannot be chosen; use 'auto'."
            )
        names = ", ".join(f"{stack.name!r} ({stack.role})" for stack in self.stacks)
        return (
            f"The model has {len(self.stacks)} stacks of layers ({names}), of which {n_matching}, "
            f"not one, is its {wanted}: what is vetted has to be one stack, or the encoder or the "
            "decoder of two."
        )

    @property
    def hidden_size(self) -> int:
        """The number of output features, D, of the stack that is vetted."""
        return self.stack.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the number of their schema."""
        stacks = json.loads(json.dumps([asdict(stack) for stack in self.stacks]))  # no tuples
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
        stacks = map(_stack_from_dict, data["stacks"])
        return cls(stacks=tuple(stacks), choice=data["choice"])


def _stack_from_dict(data: Mapping[str, Any]) -> Stack:
    norm = data["embedding_norm"]
    kinds = (
        ("layers", HookPoint),
        ("output_sites", Site),
        ("reading_norms", Site),
        ("attention_norms", HookPoint),
        ("entries", StackInput),
    )
    places = {name: tuple(kind(**item) for item in data[name]) for name, kind in kinds}
    return Stack(
        **{**data, **places, "embedding_norm": None if norm is None else HookPoint(**norm)}
    )


def distinct_sites(stack: Stack) -> int:
    """The number of different modules among a stack's sites: 1 where the layers share theirs."""
    return len({site.module for site in stack.output_sites or stack.reading_norms or stack.layers})
