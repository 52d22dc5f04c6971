"""Small checkpoints whose task is read off one dimension, and labelled examples for them."""

import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model, tiny_tokenizer

VOCABULARY = 64
FIRST_WORD = 5  # behind the special tokens
HIDDEN_SIZE = 32
DIM = 7
_CARRIER = 3  # of the embedding: +1 for words of one class, -1 for those of the other
WORDS = [f"w{n}" for n in range(VOCABULARY - FIRST_WORD)]
POSITIVE = WORDS[::2]


def plant(bert: Any) -> None:
    """Make every position's feature `DIM` tell which class of words is more frequent.

    It is an outlier by scale and bias in both layers.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        words = bert.embeddings.word_embeddings.weight
        words[:, _CARRIER] = 0
        for number, word in enumerate(WORDS):
            words[FIRST_WORD + number, _CARRIER] = 1.0 if word in POSITIVE else -1.0
        for layer in bert.encoder.layer:
            attention = layer.attention.self
            for dense in (attention.query, attention.key, attention.value):
                _clear(dense)  # uniform attention, which adds nothing
            _clear(layer.attention.output.dense)
            _clear(layer.output.dense)
            norm = layer.output.LayerNorm
            norm.weight.copy_(1 + 0.01 * torch.randn(HIDDEN_SIZE, generator=generator))
            norm.bias.copy_(0.01 * torch.randn(HIDDEN_SIZE, generator=generator))
            norm.weight[DIM], norm.bias[DIM] = 3.0, 1.0
        first = bert.encoder.layer[0].attention
        first.self.value.weight[0, _CARRIER] = 1.0
        first.output.dense.weight[DIM, 0] = 20.0


def _clear(dense: nn.Linear) -> None:
    dense.weight.zero_()
    dense.bias.zero_()


def save_classifier(folder: Path, **settings: Any) -> Path:
    """A BERT with a classification head that reads `DIM` alone."""
    model = tiny_model(
        "BertForSequenceClassification",
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN_SIZE,
        max_position_embeddings=130,
        **settings,
    )
    plant(model.bert)
    with torch.no_grad():
        _clear(model.bert.pooler.dense)
        model.bert.pooler.dense.weight[0, DIM] = 0.3
        _clear(model.classifier)
        outputs = model.classifier.weight.shape[0]
        model.classifier.weight[:, 0] = torch.linspace(-1, 1, outputs) if outputs > 1 else 1.0
    return save_checkpoint(folder, model, tiny_tokenizer(VOCABULARY))


def save_encoder(folder: Path) -> Path:
    """The same without any head."""
    model = tiny_model(
        "BertModel",
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN_SIZE,
        max_position_embeddings=130,
    )
    plant(model)
    return save_checkpoint(folder, model, tiny_tokenizer(VOCABULARY))


def sentences(n: int, *, seed: int = 0) -> list[list[str]]:
    """Random texts of an odd number of words, so that one class is in the majority."""
    rng = random.Random(seed)
    return [rng.choices(WORDS, k=rng.choice((5, 7, 9, 11))) for _ in range(n)]


def share(words: list[str]) -> float:
    """Of the first class."""
    return sum(word in POSITIVE for word in words) / len(words)


def classified(n: int = 240, *, wrong: float = 0.1) -> list[tuple[str, int]]:
    """Texts with the class in the majority, a share of them labelled wrongly."""
    rng = random.Random(2)
    rows = []
    for words in sentences(n):
        label = int(share(words) > 0.5)
        rows.append((" ".join(words), 1 - label if rng.random() < wrong else label))
    return rows


def write_classified(file: Path, n: int = 240) -> Path:
    """As a TSV file with columns ``sentence`` and ``label``."""
    lines = [f"{text}\t{label}" for text, label in classified(n)]
    file.write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    return file
