"""What every process of a run holds: the plan, and a vetting per checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from robustness.pytest_support.progress import Progress
from robustness.run.plan import RunPlan
from robustness.runtime.devices import device_count
from robustness.runtime.threads import Threads
from robustness.store.context import Context
from robustness.vetting import Vetting


@dataclass(kw_only=True)
class RunState:
    """What a process of the run holds.

    Attributes:
        plan: the run's plan.
        threads: a share of the processor's cores; ``None`` leaves the library's choice.
        progress: shows how far a measurement has come.
        worker: number of this worker, from 0 on.
    """

    plan: RunPlan
    threads: Threads | None
    progress: Progress
    worker: int = 0
    _vettings: dict[str, Vetting] = field(default_factory=dict)

    def vetting(self, label: str) -> Vetting:
        """The vetting of one checkpoint, the same for all tests of this process."""
        if label not in self._vettings:
            planned = self.plan.named(label)
            wanted = planned.settings.device
            device = worker_device(wanted, self.worker, visible=lambda: device_count("cuda"))
            context = Context(
                root=self.plan.store_root,
                newer_than=self.plan.newer_than,
                threads=self.threads,
                progress=self.progress.show,
            )
            confidence = self.plan.confidence
            self._vettings[label] = planned.vetting(context, confidence=confidence, device=device)
        return self._vettings[label]

    def release(self, label: str) -> None:
        """Let go of a checkpoint's model."""
        self._vettings.pop(label, None)


STATE = pytest.StashKey[RunState]()


def worker_device(device: str, worker: int, *, visible: Callable[[], int]) -> str:
    """The device of one worker: GPUs are dealt out in turn, unless the policy names one of them.

    Args:
        device: the policy's.
        worker: number of the worker, from 0 on.
        visible: how many GPUs there are, within ``CUDA_VISIBLE_DEVICES`` where that is set: torch
            numbers them from 0 on, whatever they are called outside.
    """
    if device != "cuda":
        return device
    return f"cuda:{worker % max(1, visible())}"
