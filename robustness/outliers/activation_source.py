"""The few text blocks of the corpus that rules on activations read, and the model reading them."""

from collections.abc import Callable
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


class ActivationSource:
    """The first text blocks of the seeded order, as they stand: nothing is masked.

    The model is loaded when the first rule asks for what it computes, and let go with this object.

    Args:
        checkpoint: what reads.
        corpus: the text, loaded when the first rule asks for it.
        text_blocks: how many are read.
        block_size: tokens in each, fewer where the model takes fewer.
        bos: whether text blocks begin with the token that begins a sequence.
        seed: of the order of text blocks.
        device: where the model reads.
        context: the processor's cores, and who is told about every text block.
    """

    def __init__(
        self,
        *,
        checkpoint: "Checkpoint",
        corpus: Callable[[], Corpus],
        text_blocks: int,
        block_size: int,
        bos: Bos,
        seed: int,
        device: str,
        context: Context,
    ) -> None:
        self._checkpoint = checkpoint
        self._load_corpus = corpus
        self._n_blocks = text_blocks
        self._block_size = min(block_size, checkpoint.max_positions or block_size)
        self._bos: Bos = bos
        self._seed = seed
        self._device = device
        self._context = context
        self._outputs: LayerOutputs | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What is read, and how, beyond the weights: part of every finding's identity."""
        return {
            "tokenizer": self._checkpoint.tokenizer_hash,
            "corpus": self._corpus.fingerprint,
            "scoring": self._checkpoint.scoring,
            "block_size": self._block_size,
            "bos": self._bos,
            "text_blocks": self._n_blocks,
            "seed": self._seed,
            "dtype": "float32",
            "device": self._device.split(":")[0],
        }

    def outputs(self, stack: "Stack") -> "LayerOutputs":
        """The hidden states behind the layers; read once for all rules."""
        from robustness.outliers.activations.outputs import layer_outputs

        if self._outputs is None:
            self._outputs = layer_outputs(
                self._model,
                stack,
                self._blocks,
                sentence_first=self._checkpoint.scoring == "masked",
                progress=self._context.progress,
            )
        return self._outputs

    def inputs(self, stack: "Stack", *, threshold: float) -> "DenseInputs":
        """What the dense layers read."""
        from robustness.outliers.activations.inputs import dense_inputs

        return dense_inputs(
            self._model, stack, self._blocks, threshold=threshold, progress=self._context.progress
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
            progress=self._context.progress,
        )

    @cached_property
    def _corpus(self) -> Corpus:
        return self._load_corpus()

    @cached_property
    def _blocks(self) -> "list[NDArray[np.int64]]":
        from robustness.corpus.blocks import text_blocks

        tokenizer = self._checkpoint.load_tokenizer()
        blocks = text_blocks(self._corpus, tokenizer, block_size=self._block_size, bos=self._bos)
        order = block_order(blocks.n_blocks, seed=self._seed, fingerprint=self._corpus.fingerprint)
        return [blocks.ids[block] for block in order[: self._n_blocks]]

    @cached_property
    def _model(self) -> Any:
        import torch

        share = self._context.threads
        threads = None if share is None else share()
        if threads is not None:
            torch.set_num_threads(threads)
        return self._checkpoint.load_model(device=self._device, progress=self._context.progress)
