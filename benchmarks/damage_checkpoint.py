"""A checkpoint as data: what the zoo of ``damage.py`` is made of, read and written.

Here a part of a model is called by its role; which names of tensors play it is one table.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

ROLES: Mapping[str, str] = {
    "query": r"\.(query|q_proj)\.",
    "key": r"\.(key|k_proj)\.",
    "value": r"\.(value|v_proj)\.",
    "attention writer": r"(attention\.output\.dense|attention\.dense|self_attn\.o_proj)\.",
    "mlp reader": r"(intermediate\.dense|\.ffn|mlp\.up_proj|mlp\.gate_proj)\.",
    "mlp multiplier": r"mlp\.up_proj\.",
    "mlp writer": r"(layer\.\d+\.output\.dense|\.ffn_output|mlp\.down_proj)\.",
    "norm": r"([Ll]ayer_?[Nn]orm|\.norm)\.(weight|bias)$",
    "attention norm": r"(attention\.output\.LayerNorm|attention\.LayerNorm|input_layernorm)\.",
    "words": r"(word_embeddings|embed_tokens)\.weight$",
    "positions": r"position_embeddings\.weight$",
}
"""What plays a part in a model, as patterns of the names of its tensors."""

LAYER = re.compile(r"\.(?:layer|layers|albert_layers)\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a checkpoint reads.

    Attributes:
        here: what the gate sees.
        elsewhere: what decides whether a checkpoint is damaged.
        other: of another kind.
        frequent: ids of ordinary tokens of ``here``, the most frequent first.
    """

    here: tuple[str, ...]
    elsewhere: tuple[str, ...]
    other: tuple[str, ...]
    frequent: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A checkpoint's files as data, and how they are written.

    Attributes:
        tensors: by name.
        config: ``config.json``.
        tokenizer: ``tokenizer.json``.
        tokenizer_config: ``tokenizer_config.json``.
        texts: what it reads.
        shard_size: of the weight files.
        pickled: whether they are pickles.
        indent: of the JSON files.
    """

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    texts: Texts
    shard_size: str = "50GB"
    pickled: bool = False
    indent: int | None = 2
    seed: int = field(default=0)

    @property
    def layers(self) -> int:
        """Layers whose weights are stored."""
        return 1 + max(int(found[1]) for name in self.tensors if (found := LAYER.search(name)))

    @property
    def shares_layers(self) -> bool:
        """Whether one layer's weights are used by several."""
        return self.layers < int(self.config["num_hidden_layers"])

    @property
    def causal(self) -> bool:
        """Whether it predicts the next token."""
        return "CausalLM" in self.config["architectures"][0]

    @property
    def heads(self) -> int:
        """Of one layer's attention."""
        return int(self.config["num_attention_heads"])

    def names(self, role: str, layers: Iterable[int] | None = None) -> list[str]:
        """Tensors that play a role, in some layers or (None) everywhere."""
        wanted = None if layers is None else set(layers)
        return [
            name
            for name in self.tensors
            if re.search(ROLES[role], name) and (wanted is None or layer_of(name) in wanted)
        ]

    def matrices(self) -> list[str]:
        """The dense weights of all layers."""
        return [
            name
            for name, tensor in self.tensors.items()
            if tensor.ndim == 2 and layer_of(name) is not None
        ]

    def changed(self, names: Iterable[str], change: Callable[[Tensor], Tensor]) -> "Stored":
        """The same with some tensors changed."""
        found = {name: change(self.tensors[name]).contiguous() for name in names}
        return replace(self, tensors={**self.tensors, **found})

    def having(self, **settings: Any) -> "Stored":
        """The same with settings of ``config.json`` changed."""
        return replace(self, config={**self.config, **settings})


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to; None outside the layers."""
    found = LAYER.search(name)
    return int(found[1]) if found else None


def renumbered(name: str, layer: int) -> str:
    """The name of the same tensor in another layer."""
    return LAYER.sub(lambda found: found[0].replace(found[1], str(layer)), name, count=1)


def read(folder: Path, texts: Texts) -> Stored:
    """A folder with one ``model.safetensors``, as float32."""
    content = {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in ("config", "tokenizer", "tokenizer_config")
    }
    tensors = load_file(folder / "model.safetensors")
    stored = Stored(
        tensors={name: tensor.float() for name, tensor in tensors.items()}, texts=texts, **content
    )
    return replace(stored, texts=replace(texts, frequent=frequent(folder, texts)))


def frequent(folder: Path, texts: Texts) -> tuple[int, ...]:
    """Ordinary tokens by how often they come, the most frequent first."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    counts = Counter(token for text in texts.here for token in tokenizer(text)["input_ids"])
    special = set(tokenizer.all_special_ids)
    return tuple(token for token, _ in counts.most_common() if token not in special)


def write(stored: Stored, folder: Path) -> Path:
    """All files of a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config", "tokenizer", "tokenizer_config"):
        text = json.dumps(getattr(stored, name), indent=stored.indent, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text)
    save_torch_state_dict(
        dict(stored.tensors),
        folder,
        max_shard_size=stored.shard_size,
        safe_serialization=not stored.pickled,
    )
    return folder


def loaded(folder: Path) -> tuple[Any, Any]:
    """Model in float32 and tokenizer, by transformers alone."""
    causal = "CausalLM" in AutoConfig.from_pretrained(folder).architectures[0]
    cls = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model = cls.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)
