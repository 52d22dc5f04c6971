"""Forward passes on a task's examples: what a model answers, batch by batch."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustness.ablation.edits import Sum
from robustness.ablation.hooks import Means, summed
from robustness.ablation.interventions import Intervention
from robustness.checkpoint.task_heads import TaskKind
from robustness.errors import MeasurementError
from robustness.measurement.batching import first_guess, is_out_of_memory, micro_batches
from robustness.measurement.execution import separated, sharing, take_threads
from robustness.runtime.threads import LibraryChoice, Threads

if TYPE_CHECKING:
    from robustness.ablation.ablation import Ablation
    from robustness.anatomy.stacks import Anatomy


@dataclass(frozen=True, kw_only=True)
class Row:
    """One text or pair as a model reads it, each of shape (T,).

    Attributes:
        ids: tokens, special ones included.
        types: which of the two texts a token belongs to, where the tokenizer says.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None


def tokenized(
    texts: Sequence[tuple[str, ...]], tokenizer: Any, *, kind: TaskKind, max_length: int
) -> list[list[Row]]:
    """The rows of each example: one, or for a similarity one for each of the two texts.

    What is longer than ``max_length`` tokens is cut, of a pair the longer text first.
    """
    return [
        [_row(tokenizer, part, max_length) for part in _parts(example, kind)] for example in texts
    ]


def _parts(example: tuple[str, ...], kind: TaskKind) -> list[tuple[str, ...]]:
    return [(text,) for text in example] if kind == "similarity" else [example]


def _row(tokenizer: Any, texts: tuple[str, ...], max_length: int) -> Row:
    found = tokenizer(*texts, truncation=True, max_length=max_length)
    types = found.get("token_type_ids")
    return Row(ids=tuple(found["input_ids"]), types=None if types is None else tuple(types))


class Predictor:
    """A model, loaded when it is first asked.

    Args:
        load: loads the model to its device.
        kind: what it is asked.
        anatomy: where it can be ablated.
        device: ``cpu``, ``cuda[:n]`` or ``mps``.
        threads: a share of the processor's cores; ``None`` leaves the library's choice.
    """

    def __init__(
        self,
        *,
        load: Callable[[], nn.Module],
        kind: TaskKind,
        anatomy: "Anatomy",
        device: str,
        threads: Threads | None,
    ) -> None:
        self._load = load
        self._kind = kind
        self._anatomy = anatomy
        self._device = device
        self._threads = threads or LibraryChoice()
        self._most_tokens: int | None = None

    def predict(
        self,
        examples: Sequence[Sequence[Row]],
        intervention: Intervention,
        means: Means | None = None,
    ) -> NDArray[np.float64]:
        """Answers to the examples of a chunk, shape (n, outputs): logits, a number, or a cosine.

        Args:
            examples: rows of each.
            intervention: what is done to the model, by number of the example.
            means: mean features of the intact model, for interventions that need them.

        Raises:
            MeasurementError: if memory does not even suffice for one row at a time.
        """
        rows = [row for example in examples for row in example]
        owner = np.repeat(np.arange(len(examples)), [len(example) for example in examples])
        lengths = [len(row.ids) for row in rows]
        while True:
            try:
                outputs = self._pass(rows, owner, lengths, intervention, means)
                return self._answers(outputs, owner)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.most_tokens <= max(lengths):
                    raise MeasurementError(
                        "memory runs out with a single example in a batch: choose a smaller "
                        "max_length, fewer workers, or a larger machine"
                    ) from error
            self._most_tokens = self.most_tokens // 2

    @property
    def most_tokens(self) -> int:
        """Tokens of a batch at most; becomes smaller where memory runs out."""
        if self._most_tokens is None:
            width = self._anatomy.hidden_size
            self._most_tokens = first_guess(self._device, hidden_size=width, reserved=0)
        return self._most_tokens

    def feature_sums(
        self, examples: Sequence[Sequence[Row]], ablation: "Ablation"
    ) -> Mapping[int, Sum]:
        """The intact model's summed features at an ablation's places, by layer; row by row."""
        model = self._model
        with summed(model, self._anatomy.stack, ablation) as sums:
            for example in sharing(examples, self._threads):
                for row in example:
                    self._forward(model, [row])
        return sums

    def _pass(
        self,
        rows: Sequence[Row],
        owner: NDArray[np.int64],
        lengths: Sequence[int],
        intervention: Intervention,
        means: Means | None,
    ) -> NDArray[np.float64]:
        model = self._model
        found: dict[int, NDArray[np.float64]] = {}
        batches = micro_batches(lengths, most_tokens=self.most_tokens)
        for batch in sharing(batches, self._threads):
            for part in separated(batch, owner, intervention, self._anatomy):
                about = owner[part].tolist()
                with intervention.applied(model, self._anatomy, about, means):
                    outputs = self._forward(model, [rows[row] for row in part])
                found.update(zip(part, outputs, strict=True))
        return np.stack([found[row] for row in range(len(rows))])

    def _answers(
        self, outputs: NDArray[np.float64], owner: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        if self._kind != "similarity":
            return outputs
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        return cosines(outputs[first], outputs[first + 1])[:, None]

    def _forward(self, model: nn.Module, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Logits of each row, (B, outputs), or the mean of its last hidden states, (B, D)."""
        with torch.inference_mode():
            inputs = self._batch(model, rows)
            found = model(**inputs)
            if self._kind != "similarity":
                answers = found.logits
            else:
                real = inputs["attention_mask"][..., None]  # (B, T, 1)
                answers = (found.last_hidden_state.float() * real).sum(1) / real.sum(1)
        if not isinstance(answers, Tensor) or answers.ndim != 2 or len(answers) != len(rows):
            raise MeasurementError(
                f"{type(model).__name__} does not return one row of numbers for each text"
            )
        result: NDArray[np.float64] = answers.cpu().double().numpy()
        return result

    def _batch(self, model: Any, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Inputs padded on the right to the longest row, (B, T)."""
        pad = getattr(model.config, "pad_token_id", None) or 0
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), pad)
        real, types = torch.zeros_like(ids), torch.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = torch.tensor(row.ids)
            real[place, : len(row.ids)] = 1
            if row.types is not None:
                types[place, : len(row.ids)] = torch.tensor(row.types)
        inputs = {"input_ids": ids, "attention_mask": real}
        if rows[0].types is not None and _reads_types(model):
            inputs["token_type_ids"] = types
        return {name: value.to(self._device) for name, value in inputs.items()}

    @cached_property
    def _model(self) -> nn.Module:
        take_threads(self._threads)
        return self._load()


def _reads_types(model: Any) -> bool:
    """Whether a model tells the two texts of a pair apart, whatever its tokenizer says."""
    knows = "token_type_ids" in inspect.signature(model.forward).parameters
    return knows and getattr(model.config, "type_vocab_size", 2) > 1


def cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each pair of rows, shape (n,); 0 where one of them is 0."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = (first * second).sum(1)
    found: NDArray[np.float64] = np.divide(
        products, lengths, out=np.zeros_like(products), where=lengths > 0
    )
    return found
