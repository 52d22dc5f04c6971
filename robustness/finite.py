"""Whether every number in a checkpoint's files is one."""

from pathlib import Path

from robustness.weights import read_tensors


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
