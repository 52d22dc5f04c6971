"""The runs of layers in a recorded forward pass: calls that follow on the residual path."""

from itertools import pairwise

from robustness.anatomy.layers import Reader, signature
from robustness.anatomy.tracing import Call


def chains(reader: Reader) -> list[list[Call]]:
    """The runs of layers, in order of execution; calls within a layer are not among them.

    A run whose members merely contain a longer run of equal modules (a group of layers) gives
    way to it.
    """
    found = _all_chains(reader)
    for outer in list(found):
        if any(outer is chain for chain in found) and _is_grouped(outer, found):
            found = [chain for chain in found if chain is not outer]
    members = [{call.index for call in chain} for chain in found]
    return [
        chain
        for chain, own in zip(found, members, strict=True)
        if not any(
            ancestor.index in other
            for other in members
            if other is not own
            for call in chain
            for ancestor in call.ancestors()
        )
    ] or _runs_in_lists(reader)


def _all_chains(reader: Reader) -> list[list[Call]]:
    """Every run of two or more calls of one class along the residual path."""
    by_class: dict[type, list[Call]] = {}
    for call in reader.trace.calls:
        if call.outputs and any(inner.owns_parameters for inner in call.descendants()):
            by_class.setdefault(type(call.module), []).append(call)
    found: list[list[Call]] = []
    for calls in by_class.values():
        found.extend(_chains_of(reader, calls) if len(calls) > 1 else ())
    with_others = [_with_others(reader, chain) for chain in found]
    by_index = {tuple(call.index for call in chain): chain for chain in with_others}
    return sorted(by_index.values(), key=lambda chain: chain[0].index)


def _runs_in_lists(reader: Reader) -> list[list[Call]]:
    """The run in one list of modules that ends last, where no residual path leads through layers.

    Of layers that mix several residual streams, each is handed what the one before returned; of
    layers that are no modules themselves, the norms follow on the residual path that end them.
    """
    called = {call.name for call in reader.trace.calls}
    layers: dict[str, list[Call]] = {}
    norms: dict[str, list[Call]] = {}
    for call in reader.trace.calls:
        if call.outputs and _container(call) not in called:
            if any(inner.owns_parameters for inner in call.descendants()):
                layers.setdefault(_container(call), []).append(call)
            elif call.owns_parameters and reader.normalises(call):
                norms.setdefault(_container(call), []).append(call)
    found = [
        calls
        for calls in layers.values()
        if len(calls) > 1
        and all(
            one.outputs[0] in two.inputs and one.shape == two.shape for one, two in pairwise(calls)
        )
    ] or [chain for calls in norms.values() for chain in _chains_of(reader, calls)]
    return [max(found, key=lambda chain: chain[-1].index)] if found else []


def _with_others(reader: Reader, chain: list[Call]) -> list[Call]:
    """A run of layers with those of other classes between them (attention, state space).

    They are known by their container, a list of modules that is itself never called.
    """
    containers = {_container(call) for call in chain}
    trace = reader.trace
    if len(containers) > 1 or any(call.name in containers for call in trace.calls):
        return chain
    calls = [call for call in trace.calls if call.outputs and _container(call) in containers]
    return max([chain, *_chains_of(reader, calls)], key=len)


def _chains_of(reader: Reader, calls: list[Call]) -> list[list[Call]]:
    found: list[list[Call]] = []
    for call in calls:
        path = reader.residual_path(call.outputs[0])
        before = [
            chain
            for chain in found
            if chain[-1].outputs[0] in path and chain[-1] not in call.ancestors()
        ]
        if before:
            before[-1].append(call)
        else:
            found.append([call])
    return [chain for chain in found if len(chain) > 1]


def _is_grouped(outer: list[Call], found: list[list[Call]]) -> bool:
    for inner in found:
        if inner is outer or len(inner) <= len(outer):
            continue
        groups = [[c for c in inner if group in c.ancestors()] for group in outer]
        if all(
            members
            and members[-1].outputs[0] == group.outputs[0]
            and len({signature(member) for member in members}) == 1
            for group, members in zip(outer, groups, strict=True)
        ):
            return True
    return False


def _container(call: Call) -> str:
    return call.name.rpartition(".")[0]
