"""Whether every number in a checkpoint's files is one."""

from pathlib import Path
from typing import TYPE_CHECKING

from robustness.checkpoint.weights import read_tensors
from robustness.runtime.libraries import library_versions
from robustness.store.store import Record, Store

if TYPE_CHECKING:
    from robustness.checkpoint.checkpoint import Checkpoint


def non_finite_tensors(folder: Path) -> list[str]:
    """Names of the floating-point tensors that hold NaN or infinity, read one after the other.

    Args:
        folder: the checkpoint's folder, with its safetensors files.
    """
    import torch
    from safetensors import safe_open

    names_of: dict[Path, list[str]] = {}
    for name, tensor in read_tensors(folder).items():
        names_of.setdefault(tensor.file, []).append(name)
    broken = []
    for file, names in names_of.items():
        with safe_open(file, framework="pt") as tensors:
            for name in names:
                values = tensors.get_tensor(name)
                if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                    broken.append(name)
    return sorted(broken)


def recorded_non_finite_tensors(
    checkpoint: "Checkpoint", *, store_root: Path, newer_than: float | None
) -> tuple[str, ...]:
    """The same from the store, where any process has read all of the checkpoint before.

    Args:
        checkpoint: resolved.
        store_root: folder of the store.
        newer_than: seconds since the epoch; what the store has from before is not used.

    Raises:
        CheckpointError: if its files changed meanwhile.
    """

    def look(_: object) -> Record:
        names = non_finite_tensors(checkpoint.folder)
        checkpoint.require_unchanged()
        return {"names": names}

    store = Store(store_root, {"weights": checkpoint.weights_hash}, newer_than=newer_than)
    unit = {"non_finite_tensors": 1, "versions": library_versions()}
    (record,) = store.obtain([unit], look)
    return tuple(record["names"])
