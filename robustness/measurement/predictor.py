"""Forward passes on a task's examples: what a model answers, batch by batch."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustness.ablation.hooks import Means
from robustness.ablation.interventions import Intervention
from robustness.checkpoint.task_heads import TaskKind
from robustness.errors import MeasurementError
from robustness.measurement.loaded_model import LoadedModel


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """One text or pair as a model reads it: tokens and, where the tokenizer says, their types."""

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """How many tokens it has."""
        return len(self.ids)


def tokenized(
    texts: Sequence[tuple[str, ...]], tokenizer: Any, *, kind: TaskKind, max_length: int
) -> list[list[TextRow]]:
    """The rows of each example: one, or for a similarity one for each of the two texts.

    What is longer than ``max_length`` tokens is cut, of a pair the longer text first.
    """

    def row(*parts: str) -> TextRow:
        encoding = tokenizer(*parts, truncation=True, max_length=max_length)
        types = encoding.get("token_type_ids")
        return TextRow(
            ids=tuple(encoding["input_ids"]), types=None if types is None else tuple(types)
        )

    alone = kind == "similarity"
    return [[row(text) for text in example] if alone else [row(*example)] for example in texts]


@dataclass(kw_only=True, eq=False, repr=False)
class Predictor(LoadedModel[TextRow]):
    """A model that answers a task of some kind."""

    row_and_remedy = ("example", "max_length")

    kind: TaskKind

    def predict(
        self,
        examples: Sequence[Sequence[TextRow]],
        intervention: Intervention,
        means: Means | None = None,
    ) -> NDArray[np.float64]:
        """Answers to the examples of a chunk, shape (n, outputs): logits, a number, or a cosine.

        Raises:
            MeasurementError: if memory does not even suffice for one row at a time.
        """
        rows = [row for example in examples for row in example]
        owner = np.repeat(np.arange(len(examples)), [len(example) for example in examples])

        def run(most_tokens: int) -> NDArray[np.float64]:
            outputs = self._by_row(
                rows,
                owner,
                intervention,
                most_tokens,
                means,
                lambda batch: self._forward([rows[row] for row in batch]),
            )
            return np.stack([outputs[row] for row in range(len(rows))])

        outputs, _ = self._within_memory(rows, self.most_tokens, run)
        if self.kind != "similarity":
            return outputs
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        return cosines(outputs[first], outputs[first + 1])[:, None]

    def _run_alone(self, row: TextRow) -> None:
        self._forward([row])

    def _forward(self, rows: Sequence[TextRow]) -> NDArray[np.float64]:
        """Logits of each row, (B, outputs), or the mean of its last hidden states, (B, D)."""
        model = self._model
        with torch.inference_mode():
            inputs = self._batch(model, rows)
            output = model(**inputs)
            if self.kind != "similarity":
                answers = output.logits
            else:
                real = inputs["attention_mask"][..., None]  # (B, T, 1)
                answers = (output.last_hidden_state.float() * real).sum(1) / real.sum(1)
        if not isinstance(answers, Tensor) or answers.ndim != 2 or len(answers) != len(rows):
            raise MeasurementError(
                f"{type(model).__name__} does not return one row of numbers for each text"
            )
        result: NDArray[np.float64] = answers.cpu().double().numpy()
        return result

    def _batch(self, model: Any, rows: Sequence[TextRow]) -> dict[str, Tensor]:
        """Inputs padded on the right to the longest row, (B, T)."""
        pad = getattr(model.config, "pad_token_id", None) or 0
        length = max(row.length for row in rows)
        ids = torch.full((len(rows), length), pad)
        real, types = torch.zeros_like(ids), torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : row.length] = torch.tensor(row.ids)
            real[place, : row.length] = 1
            if row.types is not None:
                types[place, : row.length] = torch.tensor(row.types)
        inputs = {"input_ids": ids, "attention_mask": real}
        if rows[0].types is not None and _reads_types(model):
            inputs["token_type_ids"] = types
        return {name: value.to(self.device) for name, value in inputs.items()}


def _reads_types(model: Any) -> bool:
    """Whether a model tells the two texts of a pair apart, whatever its tokenizer says."""
    knows = "token_type_ids" in inspect.signature(model.forward).parameters
    return knows and getattr(model.config, "type_vocab_size", 2) > 1


def cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each pair of rows, shape (n,); 0 where one of them is 0."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(1)
    similarities: NDArray[np.float64] = np.divide(
        products, lengths, out=np.zeros_like(products), where=lengths > 0
    )
    return similarities
