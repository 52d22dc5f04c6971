"""Reading a stack off a recorded forward pass: its part in the model, and all its places."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Literal, TypeAlias

from robustness.anatomy.layers import Reader, Writer
from robustness.anatomy.stacks import EMBEDDING, HookPoint, Role, Site, SiteKind, Stack, StackInput
from robustness.anatomy.tracing import Call
from robustness.errors import UnsupportedArchitecture, UnsupportedSite

RowLayout: TypeAlias = tuple[int | None, Literal["batch-major", "time-major"] | None]

_INSTEAD = (
    "the site 'output' and the rules for weights need one dense layer or norm for each layer, "
    "which mixtures of experts and models of several residual streams lack, while the site "
    "'residual' can be ablated in any of them, with dimensions that a rule on activations finds, "
    "such as 'massive'."
)


def read_stacks(reader: Reader, chains: Sequence[list[Call]]) -> list["StackReader"]:
    """One reader for each run of layers."""
    layers = frozenset(call.index for chain in chains for call in chain)
    return [
        StackReader(reader=reader, layers=chain, role=role, all_layers=layers)
        for chain, role in zip(chains, _roles(reader, chains), strict=True)
    ]


def _roles(reader: Reader, chains: Sequence[list[Call]]) -> list[Role]:
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


@dataclass(kw_only=True, eq=False)
class StackReader:
    """Answers questions about one run of layers.

    Attributes:
        reader: Of the trace.
        layers: The calls of the layers, in order.
        role: See `Stack`.
        all_layers: Indices of the calls of all stacks' layers.
    """

    reader: Reader
    layers: list[Call]
    role: Role
    all_layers: frozenset[int]

    def modules(self) -> Iterator[str]:
        """Names of all modules at whose output features can be switched off."""
        calls = [*self.layers, *self._attention_norms]
        if self._embedding_norm is not None:
            calls.append(self._embedding_norm)
        if not isinstance(self._writers, UnsupportedSite):
            calls += [writer.call for writer in self._writers]
        yield from (call.name for call in calls)

    def stack(self, rows: Mapping[str, RowLayout]) -> Stack:
        """What was found.

        Raises:
            UnsupportedArchitecture: The layers cannot be told apart, or differ in width.
        """
        widths = {layer.shape[-1] for layer in self.layers}
        if len(widths) > 1:
            raise UnsupportedArchitecture(
                f"The layers of {self._caller.name!r} return {sorted(widths)} features, so no "
                "dimension goes through all of them."
            )
        sites: tuple[Site, ...] = ()
        readers: tuple[Site, ...] = ()
        why = ""
        try:
            sites = self._output_sites(rows)
        except UnsupportedSite as error:
            why = f"{str(error).removesuffix('.')}; {_INSTEAD}"
            readers = self._reading_norms()
        embedding_norm = self._embedding_norm
        return Stack(
            name=self._caller.name,
            role=self.role,
            hidden_size=self.layers[0].shape[-1],
            layers=self._places(self.layers, rows),
            output_sites=sites,
            why_no_output_sites=why,
            reading_norms=readers,
            attention_norms=self._places(self._attention_norms, rows),
            embedding_norm=None
            if embedding_norm is None
            else HookPoint(
                module=embedding_norm.name,
                layer_module=embedding_norm.name,
                execution=0,
                layer=EMBEDDING,
                batch_axis=rows[embedding_norm.name][0],
                flattened=rows[embedding_norm.name][1],
            ),
            entries=self._entries(),
            resumable=self._is_resumable(),
        )

    def _places(self, calls: list[Call], rows: Mapping[str, RowLayout]) -> tuple[HookPoint, ...]:
        return tuple(
            HookPoint(
                module=call.name,
                layer_module=self.layers[index].name,
                execution=self._executions[index],
                layer=index,
                batch_axis=rows.get(call.name, (None, None))[0],
                flattened=rows.get(call.name, (None, None))[1],
            )
            for index, call in enumerate(calls)
        )

    def _output_sites(self, rows: Mapping[str, RowLayout]) -> tuple[Site, ...]:
        if isinstance(self._writers, UnsupportedSite):
            raise self._writers
        for layer, writer in zip(self.layers, self._writers, strict=True):
            if writer.call.shape[-1] != layer.shape[-1]:
                raise UnsupportedSite(
                    f"{writer.call.name!r} writes the output of the layer {layer.name!r} as a "
                    f"tensor of shape {writer.call.shape}, whose last axis is not the layer's "
                    f"{layer.shape[-1]} features."
                )
        calls = [writer.call for writer in self._writers]
        return self._sites(calls, [writer.kind for writer in self._writers], rows)

    def _reading_norms(self) -> tuple[Site, ...]:
        with suppress(UnsupportedSite):
            norms = [self.reader.reading_norm(layer) for layer in self.layers]
            return self._sites(norms, ["reader"] * len(norms), {})
        return ()

    def _sites(
        self, calls: list[Call], kinds: Sequence[SiteKind], rows: Mapping[str, RowLayout]
    ) -> tuple[Site, ...]:
        sites = []
        for call, kind, place in zip(calls, kinds, self._places(calls, rows), strict=True):
            roles = self.reader.parameter_roles(call)
            sites.append(
                Site(
                    **vars(place),
                    kind=kind,
                    scale=f"{place.module}.{roles.scale}",
                    bias=f"{place.module}.{roles.bias}" if roles.bias is not None else None,
                    feature_axis=roles.feature_axis,
                )
            )
        return tuple(sites)

    @cached_property
    def _writers(self) -> list[Writer] | UnsupportedSite:
        try:
            return [self.reader.writer(layer) for layer in self.layers]
        except UnsupportedSite as error:
            return error

    @cached_property
    def _attention_norms(self) -> list[Call]:
        norms: list[Call] = []
        with suppress(UnsupportedSite):
            for layer in self.layers:
                norm = self.reader.attention_norm(layer)
                if norm is None or norm.shape[-1] != layer.shape[-1]:
                    return []
                norms.append(norm)
            return norms
        return []

    @cached_property
    def _embedding_norm(self) -> Call | None:
        """The last norm on the residual path before the first layer, of its width, run once."""
        first = self.layers[0]
        if self._entering is None:
            return None
        path = self.reader.residual_path(self._entering)
        calls = self.reader.trace.calls
        norm = None
        for call in calls[: first.index]:
            outside = self.all_layers.isdisjoint(c.index for c in (call, *call.ancestors()))
            if (
                outside
                and next(iter(call.outputs), None) in path
                and call.shape[-1] == first.shape[-1]
                and self.reader.normalises(call)
            ):
                norm = call
        once = norm is not None and sum(call.name == norm.name for call in calls) == 1
        return norm if once else None

    def _entries(self) -> tuple[StackInput, ...]:
        """The outermost calls that are handed what enters the first layer.

        What ended before the first layer began is no matter, unless it made something of it.
        """
        entering, first = self._entering, self.layers[0]
        around = {call.index for call in first.ancestors()}
        calls: list[Call] = []
        for call in self.reader.trace.calls:
            handed = entering in call.inputs and (call.index >= first.index or call.index in around)
            if handed and not any(ancestor in calls for ancestor in call.ancestors()):
                calls.append(call)
        if entering is None or not all(entering in call.arguments for call in calls):
            return ()
        for operation in self.reader.trace.operations:
            inside = any(operation.index in call.operations for call in calls)
            relevant = not self.reader.relevant.isdisjoint(operation.outputs)
            if entering in operation.inputs and relevant and not inside:
                return ()
        entries = []
        for call in calls:
            within = [c for c in self._caller.descendants() if c.name == call.name]
            execution = within.index(call) if call in within else None
            argument = call.arguments[entering]
            entries.append(StackInput(module=call.name, argument=argument, execution=execution))
        return tuple(entries)

    def _is_resumable(self) -> bool:
        """Whether nothing after a layer reads what the layer before it did not return."""
        whole = bool(self.layers[0].children)  # and not just the norm that ends a layer
        return whole and all(self._ends_in_its_output(k) for k in range(1, len(self.layers)))

    def _ends_in_its_output(self, k: int) -> bool:
        """Whether the first k layers are known to what follows by the k-th one's output alone."""
        returned = set(self.layers[k - 1].outputs)
        end = self.layers[k - 1].operations.stop
        lost: set[int] = set()
        for operation in self.reader.trace.operations:
            reads_lost = not lost.isdisjoint(operation.inputs)
            if operation.index >= end:
                if reads_lost and not self.reader.relevant.isdisjoint(operation.outputs):
                    return False
            elif reads_lost or self._layer_of.get(operation.index, k) < k:
                lost.update(value for value in operation.outputs if value not in returned)
        return True

    @cached_property
    def _layer_of(self) -> dict[int, int]:
        """The layer within which each operation was executed, by the operation's index."""
        return {
            index: number for number, layer in enumerate(self.layers) for index in layer.operations
        }

    @cached_property
    def _entering(self) -> int | None:
        if not self.layers[0].children:  # a norm in a layer's place is handed the layer's end
            return None
        with suppress(UnsupportedSite):
            return self.reader.entering(self.layers[0])
        return None

    @cached_property
    def _caller(self) -> Call:
        """The innermost call from within which all layers were called."""
        lines = [[*layer.ancestors()][::-1] for layer in self.layers]
        shared = takewhile(lambda calls: len(set(calls)) == 1, zip(*lines, strict=False))
        caller: Call = [*shared][-1][0]
        return caller

    @cached_property
    def _executions(self) -> list[int]:
        """For each layer, which call of its module within the call of the stack it is."""
        calls: dict[str, list[Call]] = {layer.name: [] for layer in self.layers}
        for call in self._caller.descendants():
            if call.name in calls:
                calls[call.name].append(call)
        if sum(map(len, calls.values())) != len(self.layers):
            raise UnsupportedArchitecture(
                f"{self._caller.name!r} calls the module of one of its {len(self.layers)} layers "
                "again outside of their run, so they cannot be told apart."
            )
        return [calls[layer.name].index(layer) for layer in self.layers]
