"""The few text blocks of the corpus that rules on activations read, and the model reading them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from robustness.corpus.corpus import Corpus
from robustness.corpus.special_tokens import Bos
from robustness.scoring.sampling import block_order
from robustness.store.context import Context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from robustness.anatomy.stacks import Stack
    from robustness.checkpoint.checkpoint import Checkpoint
    from robustness.outliers.rules.summaries import DenseInputs, LayerOutputs, Spikes


@dataclass(kw_only=True, eq=False, repr=False)
class ActivationSource:
    """The first text blocks of the seeded order, as they stand: nothing is masked.

    The model is loaded when the first rule asks for what it computes, and let go with this object.
    """

    checkpoint: "Checkpoint"
    load_corpus: Callable[[], Corpus]
    n_blocks: int
    block_size: int
    bos: Bos
    seed: int
    device: str
    context: Context

    def __post_init__(self) -> None:
        """Take no longer text blocks than the model takes."""
        self.block_size = min(self.block_size, self.checkpoint.max_positions or self.block_size)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What is read, and how, beyond the weights: part of every finding's identity."""
        return {
            "tokenizer": self.checkpoint.tokenizer_hash,
            "corpus": self._corpus.fingerprint,
            "scoring": self.checkpoint.scoring,
            "block_size": self.block_size,
            "bos": self.bos,
            "text_blocks": self.n_blocks,
            "seed": self.seed,
            "dtype": "float32",
            "device": self.device.split(":")[0],
        }

    def outputs(self, stack: "Stack") -> "LayerOutputs":
        """The hidden states behind the layers; read once for all rules."""
        from robustness.outliers.activations.outputs import layer_outputs

        if "_outputs" not in vars(self):
            self._outputs = layer_outputs(
                self._model,
                stack,
                self._blocks,
                sentence_first=self.checkpoint.scoring == "masked",
                progress=self.context.progress,
            )
        return self._outputs

    def inputs(self, stack: "Stack", *, threshold: float) -> "DenseInputs":
        """What the dense layers read."""
        from robustness.outliers.activations.inputs import dense_inputs

        return dense_inputs(
            self._model, stack, self._blocks, threshold=threshold, progress=self.context.progress
        )

    def spikes(self, stack: "Stack", *, threshold: float, max_rounds: int) -> "list[Spikes]":
        """Extremes at the output writers, round after round."""
        from robustness.outliers.activations.spikes import require_dense_writers, spike_rounds

        require_dense_writers(stack)  # before anything is loaded
        return spike_rounds(
            self._model,
            stack,
            self._blocks,
            threshold=threshold,
            max_rounds=max_rounds,
            progress=self.context.progress,
        )

    @cached_property
    def _corpus(self) -> Corpus:
        return self.load_corpus()

    @cached_property
    def _blocks(self) -> "list[NDArray[np.int64]]":
        from robustness.corpus.blocks import text_blocks

        tokenizer = self.checkpoint.load_tokenizer()
        blocks = text_blocks(self._corpus, tokenizer, block_size=self.block_size, bos=self.bos)
        order = block_order(blocks.n_blocks, seed=self.seed, fingerprint=self._corpus.fingerprint)
        return [blocks.ids[block] for block in order[: self.n_blocks]]

    @cached_property
    def _model(self) -> Any:
        import torch

        share = self.context.threads
        threads = None if share is None else share()
        if threads is not None:
            torch.set_num_threads(threads)
        return self.checkpoint.load_model(device=self.device, progress=self.context.progress)
