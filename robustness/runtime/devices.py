"""What accelerators there are, asked of their driver: a second run needs no torch for it.

NVIDIA's driver interface (CUDA Driver API: ``cuInit``, ``cuDeviceGetCount``, ``cuDeviceGet``,
``cuDeviceGetAttribute``) heeds ``CUDA_VISIBLE_DEVICES`` as torch does, which is built upon it.
"""

import ctypes
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CAPABILITY_MAJOR = 75
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR``"""
_AMPERE = 8
"""Compute capability from which on GPUs multiply bfloat16 matrices."""


def gpu_count() -> int:
    """How many GPUs torch can use; it numbers them from 0 on."""
    found = _capabilities()
    if found is None:
        import torch

        return torch.cuda.device_count()
    return len(found)


def gpu_computes_bfloat16(index: int) -> bool:
    """Whether a GPU multiplies bfloat16 matrices natively.

    Args:
        index: torch's number of it.
    """
    found = _capabilities()
    if found is None:
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return index < len(found) and found[index] >= _AMPERE


def mps_count() -> int:
    """One on a Mac with Metal, otherwise none."""
    if sys.platform != "darwin":
        return 0
    import torch

    return int(torch.backends.mps.is_available())


def torch_version() -> str:
    """Of the torch that is installed, with what it is built for, such as ``2.13.0+cu130``."""
    return str(_build()["__version__"])


def _build() -> dict[str, Any]:
    """What torch was built with and for, read without importing it."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))


def _capabilities() -> tuple[int, ...] | None:
    """Major compute capability of each GPU that torch could use.

    ``None`` to ask torch instead: it is there already, built for GPUs of another make, or finds a
    driver where this does not.
    """
    if "torch" in sys.modules:
        return None
    build = _build()
    if build.get("hip"):
        return None
    if not build.get("cuda"):
        return ()
    try:
        return _asked(ctypes.CDLL(_LIBRARY))
    except OSError:
        return None


def _asked(driver: Any) -> tuple[int, ...] | None:
    count, device, major = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return None
    found = []
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        found.append(major.value)
    return tuple(found)
