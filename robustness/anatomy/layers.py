"""Reading a recorded forward pass: the residual path, and what writes a layer's output.

Layers follow one another on the *residual path*: from a layer's output one comes back to its
predecessor's output through sums, scalings, casts, views, dropout and normalisations alone.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from robustness.anatomy.probing import ParameterRoles, is_normalisation, parameter_roles
from robustness.anatomy.tracing import Call, Operation, Trace
from robustness.errors import UnsupportedSite

# Names of torch's own operations, without underscores. What is in neither set ends a path.
_SUMS = {"add", "sub", "subtract", "rsub", "radd", "iadd", "isub"}
_TRANSPARENT = {
    *("mul", "multiply", "div", "divide", "true_divide", "rmul", "imul", "itruediv", "neg"),
    *("dropout", "clamp", "clip", "clamp_min", "clamp_max", "nan_to_num", "masked_fill", "where"),
    *("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda"),
    *("clone", "detach", "contiguous", "alias", "data"),
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT"),
}
# Where two tensors that both depend on the input are multiplied out, positions are mixed.
_CONTRACTIONS = {
    "matmul",
    "rmatmul",
    "mm",
    "bmm",
    "baddbmm",
    "einsum",
    "scaled_dot_product_attention",
}


@dataclass(frozen=True, kw_only=True)
class Writer:
    """The call that writes a layer's output features; a ``norm`` if its result *is* the output."""

    call: Call
    kind: Literal["norm", "writer"]


@dataclass(kw_only=True)
class Reader:
    """Answers questions about one trace."""

    trace: Trace
    _normalises: dict[int, bool] = field(default_factory=dict)
    _roles: dict[tuple[object, ...], ParameterRoles] = field(default_factory=dict)

    def writer(self, layer: Call) -> Writer:
        """Find what wrote the output of a layer.

        Raises:
            UnsupportedSite: Nothing, or more than one thing, answers to the description.
        """
        return _LayerReader(reader=self, layer=layer).writer()

    def attention_norm(self, layer: Call) -> Call | None:
        """The norm that follows the attention of a layer, or None.

        It is the first normalising call within the layer whose result lies on the residual path
        behind the attention, before the layer's output and what writes it. In post-norm layers it
        normalises the sum of attention and residual (BERT's ``attention.output.LayerNorm``); in
        sandwich-norm layers what the attention adds to the residual stream (Gemma-2, OLMo-2). A
        norm that only the MLP reads (pre-norm: Llama, GPT-2) is none. Where a layer attends twice,
        to itself and then to an encoder, it is the one behind the first.
        """
        return _LayerReader(reader=self, layer=layer).attention_norm()

    def reading_norm(self, layer: Call) -> Call:
        """The last norm within a layer that reads the residual stream.

        Raises:
            UnsupportedSite: There is none.
        """
        path = self.residual_path(layer.outputs[0])
        for call in reversed([*layer.descendants()]):
            reads = call.owns_parameters and not path.isdisjoint(call.inputs)
            if reads and call.shape[-1] == layer.shape[-1] and self.normalises(call):
                return call
        raise UnsupportedSite(f"The layer {layer.name!r} has no norm on the residual path.")

    def entering(self, layer: Call) -> int:
        """The value of the residual stream that a layer is called with.

        Raises:
            UnsupportedSite: There is no residual connection around the layer.
        """
        return _LayerReader(reader=self, layer=layer).residual

    def residual_path(self, value: int) -> set[int]:
        """All values from which one comes to this one by the residual path, itself included."""
        seen: set[int] = set()
        pending = [value]
        while pending:
            current = pending.pop()
            if current not in seen:
                seen.add(current)
                pending.extend(self._residual_sources(current))
        return seen

    def made_from(self, value: int) -> set[int]:
        """All values that depend on this one, itself included."""
        dependents = {value}
        for operation in self.trace.operations:
            if not dependents.isdisjoint(operation.inputs):
                dependents.update(operation.outputs)
        return dependents

    @cached_property
    def relevant(self) -> set[int]:
        """All values that the model's first result, such as its logits, was made from."""
        values = set(self.trace.calls[0].outputs[:1])
        for operation in reversed(self.trace.operations):
            if not values.isdisjoint(operation.outputs):
                values.update(operation.inputs)
        return values

    def normalisation(self, value: int) -> Call | None:
        """The call of a normalising module that made a value."""
        return next((call for call in self.trace.made_by(value) if self.normalises(call)), None)

    def normalises(self, call: Call) -> bool:
        """Whether the called module behaves as a normalisation; asked once for each module."""
        key = id(call.module)
        if key not in self._normalises:
            self._normalises[key] = is_normalisation(call)
        return self._normalises[key]

    def parameter_roles(self, call: Call) -> ParameterRoles:
        """See `probing.parameter_roles`; asked once for modules of one class and one shape.

        Raises:
            UnsupportedSite: The parameters have other roles than those of a norm or dense layer.
        """
        key = (type(call.module), call.shape[-1], signature(call))
        if key not in self._roles:
            self._roles[key] = parameter_roles(call)
        return self._roles[key]

    def _residual_sources(self, value: int) -> Iterable[int]:
        norm = self.normalisation(value)
        if norm is not None:
            return norm.inputs
        operation = self.trace.producer(value)
        if operation is not None and operation.name in _SUMS | _TRANSPARENT:
            return operation.inputs
        return ()


@dataclass(kw_only=True)
class _LayerReader:
    """Walks back from the output of one layer."""

    reader: Reader
    layer: Call

    def writer(self) -> Writer:
        """See `Reader.writer`."""
        output = self.layer.outputs[0]
        value = self._through_transparent(output)
        call = self._parameterised(value)
        if call is not None and (self.reader.normalises(call) or self._rescales(call)):
            return Writer(call=call, kind="norm")
        if call is not None:
            raise self._unsupported(
                f"its output comes from {call.name!r}, which is neither a normalisation nor "
                "followed by a residual addition"
            )
        last = branches = self._last_summands(value)
        if len(last) > 1:
            last = [v for v in last if not self._contracts(v)]
        if len(last) != 1:
            raise self._unsupported(
                f"what it adds to the residual stream is {len(branches)} branches and not what one "
                "module writes"
            )
        call = self._parameterised(last[0])
        if call is None:
            made_by = self._operation(last[0])
            name = made_by.name if made_by is not None else "nothing that was recorded"
            raise self._unsupported(
                f"what it adds to the residual stream comes from the operation {name!r} and not "
                "from a module with parameters"
            )
        return Writer(call=call, kind="writer")

    def attention_norm(self) -> Call | None:
        """See `Reader.attention_norm`."""
        path = self.reader.residual_path(self.layer.outputs[0])
        written = {self._through_transparent(self.layer.outputs[0])}
        with suppress(UnsupportedSite):
            written.add(self.writer().call.outputs[0])
        for call in self.layer.descendants():
            value = next(iter(call.outputs), None)
            if (
                value in path
                and value not in written
                and self.reader.normalises(call)
                and self._contracts(value)
            ):
                return call
        return None

    def _last_summands(self, value: int) -> list[int]:
        """The terms of the sum that the layer returns, of which no other term is made."""
        terms = list(dict.fromkeys(self._summands(value)))
        cones = {term: self._cone(term) for term in terms}
        return [
            term
            for term in terms
            if not any(term in cones[other] for other in terms if other != term)
        ]

    def _summands(self, value: int) -> Iterator[int]:
        """The terms of a sum, sums of sums flattened, except the residual itself."""
        value = self._through_transparent(value)
        if value == self.residual or self._is_residual_norm(value):
            return
        operation = self._operation(value)
        if self._parameterised(value) is None and operation is not None:
            operands = self._dependent_operands(operation)
            if operation.name in _SUMS and operands:
                for operand in operands:
                    yield from self._summands(operand)
                return
        yield value

    def _through_transparent(self, value: int) -> int:
        """Walk back while an operation passes on one tensor that depends on the layer's input."""
        while value != self.residual and self._parameterised(value) is None:
            operation = self._operation(value)
            if operation is None or operation.name not in _TRANSPARENT | _SUMS:
                break
            operands = self._dependent_operands(operation)
            if len(operands) != 1:
                break
            value = operands[0]
        return value

    def _parameterised(self, value: int) -> Call | None:
        """The innermost call of a module with parameters, inside the layer, that made a value."""
        for call in self.reader.trace.made_by(value):
            inside = any(around is self.layer for around in (call, *call.ancestors()))
            nested = any(inner.owns_parameters for inner in call.descendants())
            if inside and call.owns_parameters and not nested:
                return call
        return None

    def _rescales(self, call: Call) -> bool:
        """Whether a module scales and shifts the residual stream, in the place of a norm."""
        vectors = all(parameter.ndim == 1 for parameter in call.module.parameters(recurse=False))
        return vectors and self.residual in self.reader.residual_path(call.outputs[0])

    def _is_residual_norm(self, value: int) -> bool:
        """Whether a term is the residual after a normalisation, as in BLOOM's post-norm option."""
        norm = self.reader.normalisation(value)
        return norm is not None and any(
            self.residual in self.reader.residual_path(source) for source in norm.inputs
        )

    def _operation(self, value: int) -> Operation | None:
        """The operation within the layer that made a value."""
        operation = self.reader.trace.producer(value)
        inside = operation is not None and operation.index in self.layer.operations
        return operation if inside else None

    def _dependent_operands(self, operation: Operation) -> list[int]:
        return [v for v in dict.fromkeys(operation.inputs) if v in self._dependents]

    def _cone(self, value: int) -> set[int]:
        """Everything within the layer that a value was made from, and itself."""
        seen: set[int] = set()
        pending = [value]
        while pending:
            current = pending.pop()
            operation = self._operation(current)
            if current not in seen and current in self._dependents:
                seen.add(current)
                pending.extend(operation.inputs if operation is not None else ())
        return seen

    def _contracts(self, value: int) -> bool:
        operations = (self._operation(v) for v in self._cone(value))
        return any(
            operation.name in _CONTRACTIONS and len(self._dependent_operands(operation)) > 1
            for operation in operations
            if operation is not None
        )

    @cached_property
    def residual(self) -> int:
        """The input that comes back in the output by the residual path."""
        path = self.reader.residual_path(self.layer.outputs[0])
        for value, shape in self.layer.inputs.items():
            if value in path and shape == self.layer.shape:
                return value
        raise self._unsupported("no residual connection leads from its input to its output")

    @cached_property
    def _dependents(self) -> set[int]:
        """All values within the layer that depend on its input."""
        values = {self.residual}
        for index in self.layer.operations:
            operation = self.reader.trace.operations[index]
            if not values.isdisjoint(operation.inputs):
                values.update(operation.outputs)
        return values

    def _unsupported(self, reason: str) -> UnsupportedSite:
        return UnsupportedSite(
            f"The layer {self.layer.name!r} has no output site that can be switched off: {reason}."
        )


def signature(call: Call) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of the parameters of the called module."""
    return tuple((n, tuple(p.shape)) for n, p in call.module.named_parameters())
