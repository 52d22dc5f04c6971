"""Pre-training a small BERT on antibody sequences from scratch, its checkpoints kept on disk."""

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging

from robustness.integrations.transformers import OutlierCallback
from robustness.policy.settings import Settings

HELD_OUT = 10
"""Every tenth sequence is held out: its text is what perplexity is measured on."""

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is trained, and how.

    Attributes:
        layers: of the encoder.
        hidden_size: D; the feed-forward layers have 4 D units, a head 16 features.
        steps: optimizer steps.
        save_every: steps between two checkpoints.
        read_every: steps between two readings of the weights by the callback.
        batch_size: sequences.
        learning_rate: of AdamW at its peak; warm-up over a tenth of the steps, then linear decay.
        weight_decay: of dense and embedding weights, and of LayerNorm's where asked for.
        max_length: tokens of a sequence, specials included.
    """

    layers: int = 4
    hidden_size: int = 64
    steps: int = 2500
    save_every: int = 250
    read_every: int = 50
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    max_length: int = 128

    @property
    def name(self) -> str:
        """Of the folder of everything that is trained by it."""
        return "-".join(map(str, asdict(self).values()))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One training of the experiment."""

    seed: int
    norm_decay: bool

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"seed{self.seed}-{'norm-decay' if self.norm_decay else 'no-norm-decay'}"


class Sequences(Dataset[dict[str, list[int]]]):
    """Tokenised sequences, one per row."""

    def __init__(self, sequences: list[str], tokenizer: Any, max_length: int) -> None:
        self._rows = [
            {"input_ids": ids}
            for ids in tokenizer(sequences, truncation=True, max_length=max_length)["input_ids"]
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict[str, list[int]]:
        return self._rows[row]


class DecayingTrainer(Trainer):
    """A Trainer that decays LayerNorm's scales and biases, too."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The usual ones (no norms, no biases), and all parameters of norms."""
        usual: list[str] = super().get_decay_parameter_names(model)
        norms = [
            f"{name}.{parameter}"
            for name, module in model.named_modules()
            if isinstance(module, nn.LayerNorm)
            for parameter, _ in module.named_parameters()
        ]
        return [*usual, *norms]


def split(shared: Path, folder: Path) -> tuple[list[str], Path]:
    """Sequences to train on, and the file of those that are held out."""
    files = (shared / "data" / f"antibody-{chain}.fa" for chain in ("heavy", "light"))
    sequences = list(dict.fromkeys(s for file in files for s in _read_fasta(file)))
    held_out = folder / "held-out.fa"
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f">{n}\n{sequence}\n" for n, sequence in enumerate(sequences[::HELD_OUT]))
    held_out.write_text("".join(lines))
    return [s for n, s in enumerate(sequences) if n % HELD_OUT], held_out


def _read_fasta(file: Path) -> Iterator[str]:
    for record in file.read_text().split(">")[1:]:
        _, *lines = record.splitlines()
        yield "".join(lines)


def character_tokenizer(sequences: Collection[str]) -> Any:
    """One token per character, between [CLS] and [SEP]."""
    tokens = [*SPECIAL.values(), *sorted(set("".join(sequences)))]
    ids = {token: n for n, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(ids, SPECIAL["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    ends = [(SPECIAL[name], ids[SPECIAL[name]]) for name in ("cls_token", "sep_token")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    cls: Any = PreTrainedTokenizerFast
    return cls(tokenizer_object=backend, **SPECIAL)


def train(arm: Arm, recipe: Recipe, sequences: list[str], folder: Path) -> dict[str, Any]:
    """Train one arm, or go on where it was; what comes back is what the Trainer logged.

    Args:
        arm: seed and weight decay.
        recipe: everything else.
        sequences: to train on.
        folder: of its checkpoints.
    """
    done = folder / "log.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    set_seed(arm.seed)
    tokenizer = character_tokenizer(sequences)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.steps // 10,
        weight_decay=recipe.weight_decay,
        logging_steps=recipe.read_every,
        save_steps=recipe.save_every,
        seed=arm.seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = (DecayingTrainer if arm.norm_decay else Trainer)(
        model=_model(recipe, len(tokenizer)),
        args=arguments,
        train_dataset=Sequences(sequences, tokenizer, recipe.max_length),
        data_collator=DataCollatorForLanguageModeling(tokenizer),
        processing_class=tokenizer,
    )
    if not checkpoints(folder):
        trainer.save_model(str(folder / "checkpoint-0"))
    settings = Settings.model_validate({"checks": {"outliers_are_present": {"max": 999}}})
    OutlierCallback(every_n_steps=recipe.read_every, settings=settings).attach(trainer)
    last = _last_whole(folder)
    trainer.train(resume_from_checkpoint=last)
    log = {"history": trainer.state.log_history, "parameters": _count(trainer.model)}
    done.write_text(json.dumps(log))
    return log


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders, in order."""
    found = ((int(each.name.partition("-")[2]), each) for each in folder.glob("checkpoint-*"))
    return sorted(found)


def _last_whole(folder: Path) -> str | None:
    """The last checkpoint that training can go on from; the one of step 0 has no optimizer."""
    whole = [each for _, each in checkpoints(folder) if (each / "trainer_state.json").exists()]
    return str(whole[-1]) if whole else None


def _model(recipe: Recipe, vocab_size: int) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.hidden_size // 16,
        intermediate_size=4 * recipe.hidden_size,
        max_position_embeddings=recipe.max_length,
        type_vocab_size=1,
        pad_token_id=0,
    )
    return BertForMaskedLM(config)


def _count(model: nn.Module | None) -> int:
    parameters: Iterator[Tensor] = iter(()) if model is None else model.parameters()
    return sum(parameter.numel() for parameter in parameters)
