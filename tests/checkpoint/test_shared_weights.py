"""Workers share one memory-mapped copy of the weights, measured as the system counts it."""

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.resolving import resolve
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model

WORKERS = 2


def _proportional_bytes() -> int:
    """PSS: private pages, and of each shared page this process' share."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss in smaps_rollup")


def _worker(checkpoint: dict[str, Any], barrier: Any, found: Any) -> None:
    """What a worker's memory grows by when it loads the model and runs it."""
    torch.set_num_threads(1)
    import transformers.models.bert.modeling_bert  # noqa: F401 (belongs to no model's weights)

    ids = torch.arange(8)[None]
    with torch.inference_mode():
        tiny_model()(input_ids=ids)  # what the libraries set up at first use is not counted
        barrier.wait()
        before = _proportional_bytes()
        barrier.wait()
        model = Checkpoint.from_dict(checkpoint).load_model()
        model(input_ids=ids)
        touched = sum(float(parameter.sum()) for parameter in model.parameters())
        assert touched == touched
        barrier.wait()
        found.put(_proportional_bytes() - before)
        barrier.wait()  # nobody leaves while others still count shared pages


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "converted"])
def test_workers_share_the_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model(hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    n_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert n_bytes > 80e6
    folder = save_checkpoint(tmp_path / "model", model.to(dtype))
    checkpoint = resolve(str(folder), cache=tmp_path / "cache")
    checkpoint.load_model()  # converts, if need be
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(WORKERS), context.Queue()
    arguments = (checkpoint.to_dict(), barrier, found)
    workers = [context.Process(target=_worker, args=arguments) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    grown = sum(found.get(timeout=240) for _ in workers)
    for worker in workers:
        worker.join()
    assert n_bytes < grown < 1.3 * n_bytes
