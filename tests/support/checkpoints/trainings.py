"""Real trainings of tiny models, short enough for a test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

LENGTH = 8
VOCABULARY = 32


class RandomTokens(Dataset[dict[str, torch.Tensor]]):
    """Rows of random tokens, all of them predicted."""

    def __init__(self, n_rows: int = 64) -> None:
        generator = torch.Generator().manual_seed(0)
        self._ids = torch.randint(5, VOCABULARY, (n_rows, LENGTH), generator=generator)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._ids[row], "labels": self._ids[row]}


def trainer_of(
    model: Any, folder: Path, *, callbacks: Sequence[TrainerCallback] = (), **settings: Any
) -> Trainer:
    """A Trainer on the processor that reports to its callbacks alone."""
    known = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "logging_steps": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 1,
    }
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    arguments = TrainingArguments(output_dir=str(folder), **{**known, **settings})
    return Trainer(
        model=model, args=arguments, train_dataset=RandomTokens(), callbacks=list(callbacks)
    )
