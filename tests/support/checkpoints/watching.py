"""What a model returns and what its modules do, seen without the package."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robustness.anatomy.nested import floating_tensors


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(**inputs).logits
    return result


@contextmanager
def watched(
    model: nn.Module, modules: Iterable[str], *, copied: bool = True
) -> Iterator[dict[str, list[Tensor]]]:
    """The features that modules return, seen by hooks of our own: module -> one per call."""
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def watch(outputs: list[Tensor]) -> Callable[..., None]:
        def keep(_: nn.Module, __: object, output: Any) -> None:
            first = next(floating_tensors(output))
            outputs.append(first.clone() if copied else first)  # Falcon adds to it in place

        return keep

    handles = [
        model.get_submodule(name).register_forward_hook(watch(outputs))
        for name, outputs in seen.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
