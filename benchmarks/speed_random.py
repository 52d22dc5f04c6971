"""Random checkpoints of a published size, with outlier dimensions: for speed, not for verdicts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 30_522
SIZES: dict[str, tuple[str, dict[str, int]]] = {
    "bert-base": ("BertForMaskedLM", {"vocab_size": VOCABULARY}),
    "llama-1b": (  # Llama 3.2 1B, but for its vocabulary
        "LlamaForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
    "tiny": (
        "BertForMaskedLM",
        {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
    ),
}
"""Name to class and settings; what is not given is the class's default."""

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def save(kind: str, folder: Path, text: Path, dims: Sequence[int], *, device: str) -> int:
    """Write a random model and a WordPiece tokenizer trained on the text; returns parameters."""
    import torch
    import transformers

    name, settings = SIZES[kind]
    cls: Any = getattr(transformers, name)
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model = cls(cls.config_class(**settings, pad_token_id=0))
        for values, outlying in _writers(model):
            values += 0.02 * torch.randn_like(values)  # without a spread nothing sticks out
            values[list(dims)] += outlying
    model.save_pretrained(folder)
    _tokenizer(text, settings["vocab_size"]).save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def _writers(model: Any) -> list[tuple[Any, float]]:
    """What writes the features of each layer, and how far an outlier dimension lies off in it."""
    if hasattr(model, "bert"):
        norms = [layer.output.LayerNorm for layer in model.bert.encoder.layer]
        return [(values, 1.0) for norm in norms for values in (norm.weight, norm.bias)]
    return [(layer.mlp.down_proj.weight, 0.2) for layer in model.model.layers]


def _tokenizer(text: Path, size: int) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token=_SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(_SPECIAL.values()), show_progress=False
    )
    tokenizer.train([str(text)], trainer)
    ids = {name: tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=list(ids.items())
    )
    cls: Any = PreTrainedTokenizerFast  # partly untyped
    return cls(tokenizer_object=tokenizer, **_SPECIAL)
