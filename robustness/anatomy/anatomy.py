"""What a model is made of, found by running it: its stacks of layers and their output sites.

No table of architectures is behind this. One forward pass is recorded (`tracing`), the
layers and what writes their outputs are read from the record (`layers`), and the modules
found are called on random numbers to learn what they do (`probing`). None of it reads
the values of the parameters, so a skeleton of the model without weights serves as well.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustness.anatomy.chains import chains
from robustness.anatomy.layers import Reader
from robustness.anatomy.stack_reader import RowLayout, read_stacks
from robustness.anatomy.stacks import Anatomy, StackChoice
from robustness.anatomy.tracing import Call, Trace, outputs_of, record
from robustness.errors import UnsupportedArchitecture


def few_tokens(model: nn.Module, vocab_size: int) -> dict[str, Tensor]:
    """Two rows of ordinary tokens, eight for each stack that reads tokens of its own.

    Their ids are from the middle, since specials sit at the ends.
    """
    ids = (vocab_size // 2 + torch.arange(32).reshape(4, 8)) % vocab_size
    inputs = {"input_ids": ids[:2], "attention_mask": torch.ones_like(ids[:2])}
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        inputs["decoder_input_ids"] = ids[2:, :6]  # other lengths tell the stacks' positions apart
    return inputs


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
    """
    with _one_thread():
        trace = record(model, inputs)
        reader = Reader(trace=trace)
        runs = chains(reader)
        if not runs:
            raise UnsupportedArchitecture(_no_layers(model, trace))
        _require_features_last(model, inputs, runs)
        stacks = read_stacks(reader, runs)
        rows = _row_layouts(model, inputs, {name for one in stacks for name in one.modules()})
    return Anatomy(stacks=tuple(one.stack(rows) for one in stacks), choice=stack)


def _require_features_last(
    model: nn.Module, inputs: Mapping[str, Tensor], runs: list[list[Call]]
) -> None:
    """Refuse layers whose last axis is as long as the text, and another one is not."""
    others = {size for tensor in inputs.values() for size in tensor.shape}
    for *first, last in (run[0].shape for run in runs):
        if last in others and not others.issuperset(first):
            raise UnsupportedArchitecture(
                f"The layers of {type(model).__name__} return features before positions "
                f"({' x '.join(map(str, (*first, last)))}), and features are only switched off on "
                "the last axis: it can be neither scanned nor vetted; give a model of another "
                "architecture."
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """On a few tokens, waking up other threads for every operation takes ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
        distinct = {_row_layout(*pair, n_rows) for pair in zip(outputs, after[name], strict=True)}
        layouts[name] = distinct.pop() if len(distinct) == 1 else (None, None)
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
        f"No repeated layers were found in {type(model).__name__}: calls of one module class were "
        "looked for that follow one another on a residual path, and none were seen among "
        f"{len(trace.calls)} module calls, so there is nothing whose dimensions could be compared "
        "or switched off."
    )
