"""What every process of a run holds: the plan, and a vetting per checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from robustness.pytest_support.progress import Progress
from robustness.run.plan import RunPlan
from robustness.runtime.devices import device_count
from robustness.runtime.threads import SharedCores
from robustness.store.context import Context
from robustness.vetting import Vetting


@dataclass(kw_only=True)
class RunState:
    """What a process of the run holds; workers are numbered from 0 on.

    ``threads`` is its share of the processor's cores; ``None`` leaves the library's choice.
    """

    plan: RunPlan
    threads: SharedCores | None
    progress: Progress
    worker: int = 0
    _vettings: dict[str, Vetting] = field(default_factory=dict)

    def vetting(self, label: str) -> Vetting:
        """The vetting of one checkpoint, the same for all tests of this process."""
        if label not in self._vettings:
            plan, planned = self.plan, self.plan.named(label)
            context = Context(
                root=plan.store_root,
                newer_than=plan.newer_than,
                threads=self.threads,
                progress=self.progress.show,
            )
            wanted = planned.settings.device
            device = worker_device(wanted, self.worker, visible=lambda: device_count("cuda"))
            vetting = planned.vetting(context, confidence=plan.confidence, device=device)
            self._vettings[label] = vetting
        return self._vettings[label]

    def release(self, label: str) -> None:
        """Let go of a checkpoint's model."""
        self._vettings.pop(label, None)


STATE = pytest.StashKey[RunState]()


def worker_device(device: str, worker: int, *, visible: Callable[[], int]) -> str:
    """The device of one worker: GPUs are dealt out in turn, unless the policy names one of them.

    ``visible`` counts those within ``CUDA_VISIBLE_DEVICES``, which torch numbers from 0 on.
    """
    return f"cuda:{worker % max(1, visible())}" if device == "cuda" else device
