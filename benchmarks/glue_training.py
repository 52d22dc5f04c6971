"""Fine-tuning on one task with transformers' Trainer; a killed training goes on where it was."""

import json
import math
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.runtime.plain import plain
from robustness.statistics.pace import in_words
from robustness.store.store import digest

_POOL = 50
"""Batches that are sorted by length together."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How is trained: by default as Puccetti et al. 2022 did.

    Attributes:
        epochs: passes over the examples; a fraction is allowed.
        learning_rate: of AdamW, decaying linearly to 0.
        batch_size: examples.
        weight_decay: of AdamW.
        max_length: tokens of an example at most.
        seed: of head, dropout and order.
    """

    epochs: float = 4.0
    learning_rate: float = 2e-5
    batch_size: int = 32
    weight_decay: float = 0.01
    max_length: int = 256
    seed: int = 42


def fine_tune(
    base: Checkpoint,
    rows: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    folder: Path,
    *,
    regression: bool,
    device: str = "cpu",
    save_every: int = 50,
) -> Path:
    """Fine-tune a checkpoint; what is finished in the folder is left as it is.

    Args:
        base: what is fine-tuned.
        rows: examples with keys ``a``, ``b`` (of pairs) and ``label``.
        recipe: how.
        folder: of this training alone.
        regression: whether labels are numbers and not classes.
        device: ``cpu``, ``cuda`` or ``mps``; of several GPUs, the first.
        save_every: steps after which a killed training can go on.

    Returns:
        The fine-tuned checkpoint's folder.

    Raises:
        SystemExit: if the folder holds another training.
    """
    done, work = folder / "model", folder / "training"
    _claim(folder, {"recipe": asdict(recipe), "base": base.weights_hash, "rows": digest(rows)})
    if (done / "config.json").exists():
        return done
    set_seed(recipe.seed)
    tokenizer = base.load_tokenizer()
    cls: Any = AutoModelForSequenceClassification
    model = cls.from_pretrained(
        base.folder,
        num_labels=1 if regression else len({row["label"] for row in rows}),
        dtype=torch.float32,
        local_files_only=True,
    )
    texts = [[row[key] for row in rows] for key in "ab" if key in rows[0]]
    found = tokenizer(*texts, truncation=True, max_length=recipe.max_length)
    encoded = [
        {**{key: values[number] for key, values in found.items()}, "labels": row["label"]}
        for number, row in enumerate(rows)
    ]
    order = batches([len(each["input_ids"]) for each in encoded], recipe)
    settings = TrainingArguments(
        output_dir=str(work),
        max_steps=len(order),
        learning_rate=recipe.learning_rate,
        per_device_train_batch_size=recipe.batch_size,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=1,
        logging_steps=min(10, len(order)),
        disable_tqdm=True,
        report_to=[],
        use_cpu=device == "cpu",
    )
    if settings.device.type != device:
        raise SystemExit(f"the Trainer wants to train on {settings.device}: --device={device}?")
    if settings.n_gpu > 1:  # on all of them at once the batches would be larger
        settings._n_gpu = 1
    collate = DataCollatorWithPadding(tokenizer)
    trainer: Any = _InOrder(
        loader=DataLoader(encoded, batch_sampler=order, collate_fn=collate),  # type: ignore[arg-type]
        model=model,
        args=settings,
        train_dataset=encoded,
        data_collator=collate,
        callbacks=[_Told(folder.name, recipe.epochs)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_whole(work))
    partial = folder / "model.partial"
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(done)
    shutil.rmtree(work, ignore_errors=True)
    return done


def best_device() -> str:
    """A GPU where there is one, else the processor."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def batches(lengths: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """Numbers of the examples of every batch of a training: the same whenever it is asked.

    Examples of about the same length come together, so that little is padded: in every epoch the
    shuffled examples are sorted within pools of 50 batches, and the batches are shuffled.

    Args:
        lengths: tokens of the examples.
        recipe: how is trained.
    """
    size = recipe.batch_size
    steps = max(1, math.ceil(recipe.epochs * math.ceil(len(lengths) / size)))
    found: list[list[int]] = []
    epoch = 0
    while len(found) < steps:
        generator = random.Random(f"{recipe.seed}:{epoch}")
        order = generator.sample(range(len(lengths)), len(lengths))
        pools = (order[at : at + _POOL * size] for at in range(0, len(order), _POOL * size))
        order = [number for pool in pools for number in sorted(pool, key=lengths.__getitem__)]
        parts = [order[at : at + size] for at in range(0, len(order), size)]
        generator.shuffle(parts)
        found += parts
        epoch += 1
    return found[:steps]


class _InOrder(Trainer):
    """With all batches of the training fixed beforehand, as one long epoch.

    Then a training that goes on in the middle sees exactly the batches that were left.
    """

    def __init__(self, *, loader: Any, **options: Any) -> None:
        super().__init__(**options)
        self._loader = loader

    def get_train_dataloader(self) -> Any:
        return self._loader


class _Told(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Says how far a training has come."""

    def __init__(self, name: str, epochs: float) -> None:
        self._name = name
        self._epochs = epochs
        self._start: tuple[float, int] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self._start is None:
            self._start = (time.monotonic(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if self._start is None or "loss" not in (logs or {}):
            return
        since, first = self._start
        step, steps = state.global_step, state.max_steps
        left = (time.monotonic() - since) / max(1, step - first) * (steps - step)
        sys.stderr.write(
            f"{plain(self._name)}: step {step}/{steps} (epoch {step / steps * self._epochs:.2f} of "
            f"{self._epochs:g}), loss {float(logs['loss']):.3f}, about {in_words(left)} left\n"
        )
        sys.stderr.flush()


def _claim(folder: Path, what: Mapping[str, Any]) -> None:
    """Make a folder that of one training.

    Raises:
        SystemExit: if it is that of another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, text = folder / "training.json", json.dumps(what, indent=1)
    if not file.exists():
        partial = file.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.rename(file)
    elif file.read_text(encoding="utf-8") != text:
        raise SystemExit(
            f"{folder} holds a training with other settings, examples or weights: name another "
            "--out, or remove the folder"
        )


def _last_whole(work: Path) -> str | None:
    """The last of the Trainer's checkpoints that was written to its end; others are removed.

    Its state is the file that is written last.
    """
    found: dict[int, Path] = {}
    for folder in work.glob("checkpoint-*"):
        try:
            found[json.loads((folder / "trainer_state.json").read_text())["global_step"]] = folder
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder)
    return str(found[max(found)]) if found else None
