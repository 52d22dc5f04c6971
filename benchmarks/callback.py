"""What watching a training costs: seconds in `OutlierCallback` beside those of the whole training.

    python benchmarks/callback.py [--steps 12] [--only NAME] [--write]

Random models, really trained, in one process each after the other. The time within the callback
(reading, rule, logging) and that of the steps are taken in the same run; the share is that of a
reading every `EVERY` steps, the callback's default.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from robustness.integrations.transformers import OutlierCallback

sys.path.insert(0, str(Path(__file__).parent))
from results import conditions, header, keep, row, section, versions_of

EVERY = 100
LENGTH = 128
BATCH = 8
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BERT, 4 layers of 64 (emergence.py)": (
        "BertForMaskedLM",
        {
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "vocab_size": 30,
        },
    ),
    "BERT-medium": (
        "BertForMaskedLM",
        {
            "hidden_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "intermediate_size": 2048,
        },
    ),
    "GPT-2 (dense writers)": ("GPT2LMHeadModel", {}),
}


class RandomText(Dataset[dict[str, Tensor]]):
    """Rows of random tokens."""

    def __init__(self, vocab_size: int) -> None:
        self._ids = torch.randint(vocab_size, (256, LENGTH))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self._ids[row], "labels": self._ids[row]}


@dataclass(kw_only=True)
class Clock:
    """Seconds by what was done in them."""

    steps: list[float] = field(default_factory=list)
    readings: list[float] = field(default_factory=list)
    tracing: float = 0.0


class TimedCallback(OutlierCallback):
    """The callback, and how long it takes."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        super().__init__(**options)
        self._clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Tracing and the first reading."""
        self._clock.tracing = _seconds(
            lambda: OutlierCallback.on_train_begin(self, *args, **kwargs)
        )

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A reading."""
        end = super().on_step_end
        self._clock.readings.append(_seconds(lambda: end(*args, **kwargs)))


class StepTimer(TrainerCallback):
    """How long a step takes, from its beginning to before the readings."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self._clock.steps.append(time.perf_counter() - self._began)


def measure(name: str, steps: int) -> str:
    """One row of the table."""
    class_name, settings = MODELS[name]
    cls = getattr(transformers, class_name)
    config = cls.config_class(**settings)
    torch.manual_seed(0)
    model = cls(config)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=RandomText(config.vocab_size),
            callbacks=[StepTimer(clock)],
        )
        TimedCallback(clock, every_n_steps=1, tracked=range(8)).attach(trainer)
        trainer.train()
    step, reading = _median(clock.steps[1:]), _median(clock.readings[1:])
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return row(
        name,
        f"{n_parameters / 1e6:.1f} M",
        f"{1000 * step:.1f}",
        f"{1000 * reading:.2f}",
        f"{1000 * clock.tracing:.0f}",
        f"{100 * reading / step:.2f} %",
        f"{100 * reading / step / EVERY:.4f} %",
    )


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Measure and print, or append to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--write", action="store_true", help="append to RESULTS.md")
    arguments = parser.parse_args()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    rows = [measure(name, arguments.steps) for name in MODELS if arguments.only in name]
    versions = versions_of(("torch", "transformers", "accelerate", "numpy"))
    text = section(
        f"{conditions(versions)}; batches of {BATCH} x {LENGTH} tokens, medians; "
        f"{torch.get_num_threads()} threads",
        *header(
            *("model", "parameters", "step, ms", "reading, ms", "tracing once, ms"),
            *("reading every step", f"every {EVERY} steps"),
        ),
        *rows,
    )
    keep(text, write=arguments.write)


if __name__ == "__main__":
    main()
