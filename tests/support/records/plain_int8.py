"""Simulated int8 as a plain loop over whole numbers; shares nothing with the package.

Every dense layer of a copy of the model that lies within its layers is replaced by `PlainInt8`.
Names of classes and architectures are allowed here.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Kind = Callable[[str], tuple[bool, bool]]
"""From a module's name to whether it reads hidden dimensions and whether it writes them."""


class PlainInt8(nn.Module):
    """A dense layer in integers, in float only for some features."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, reads: list[int], writes: list[int]
    ) -> None:
        super().__init__()
        self.matrix = weight.detach().numpy()  # (out, in)
        self.bias_values = np.float32(0) if bias is None else bias.detach().numpy()
        self.reads, self.writes = reads, writes

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        values = x.detach().numpy()
        rows = values.reshape(-1, values.shape[-1])
        columns = [n for n in range(rows.shape[1]) if n not in self.reads]
        kept = [n for n in range(len(self.matrix)) if n not in self.writes]
        q_x, s_x = _integers(rows[:, columns])
        q_w, s_w = _integers(self.matrix[np.ix_(kept, columns)])
        y = np.zeros((len(rows), len(self.matrix)), dtype=np.float32)
        y[:, kept] = (q_x @ q_w.T).astype(np.float32) * (s_x * s_w)
        wide, matrix = rows.astype(np.float64), self.matrix.astype(np.float64)
        y[:, kept] += (wide[:, self.reads] @ matrix[np.ix_(kept, self.reads)].T).astype(np.float32)
        y[:, self.writes] = wide @ matrix[self.writes].T
        return torch.from_numpy(y + self.bias_values).reshape(*x.shape[:-1], -1)


def _integers(values: NDArray[np.float32]) -> tuple[NDArray[np.int64], np.float32]:
    """Whole numbers and their unit; the unit and the quotient in float32, as the model's own."""
    largest = np.float32(max((abs(v) for v in values.ravel()), default=0))
    unit = np.float32(largest / np.float32(127)) if largest > 0 else np.float32(1)
    return np.rint(values / unit).clip(-127, 127).astype(np.int64), unit


def in_int8(model: Any, layers: str, kind: Kind, spared: list[int]) -> Any:
    """A copy of a model whose dense layers below the module ``layers`` are in int8."""
    found: Any = copy.deepcopy(model)
    for name, module in list(found.get_submodule(layers).named_modules()):
        if isinstance(module, nn.Linear | Conv1D):
            weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
            reads, writes = (spared if flag else [] for flag in kind(name))
            parent, _, own = f"{layers}.{name}".rpartition(".")
            replacement = PlainInt8(weight, module.bias, reads, writes)
            setattr(found.get_submodule(parent), own, replacement)
    return found.eval()


def kind_in_bert(name: str) -> tuple[bool, bool]:
    """Of BERT, RoBERTa: (reads, writes)."""
    writes = name.endswith("output.dense")
    return not writes, writes


def kind_in_gpt2(name: str) -> tuple[bool, bool]:
    """Of GPT-2."""
    return name.endswith(("c_attn", "c_fc")), name.endswith("c_proj")


def kind_in_llama(name: str) -> tuple[bool, bool]:
    """Of Llama."""
    writes = name.endswith(("o_proj", "down_proj"))
    return not writes, writes
