"""What a model runs on, and in which precision: float32, or bfloat16 where the hardware has it.

A processor is asked without torch, so that a second run on it needs none; torch counts the rest.
"""

from pathlib import Path
from typing import Literal, TypeAlias

Dtype: TypeAlias = Literal["float32", "bfloat16"]
DtypeChoice: TypeAlias = Literal["float32", "bfloat16", "auto"]

_NATIVE = ("avx512_bf16", "amx_bf16")
"""Processor features, as Linux names them, that multiply bfloat16 matrices natively."""

_AMPERE = 8
"""Compute capability from which on GPUs multiply bfloat16 matrices natively."""


def device_count(kind: str) -> int:
    """How many devices of a kind, ``cuda`` or ``mps``, torch can use; it numbers them from 0 on."""
    import torch

    return torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())


def chosen_dtype(choice: DtypeChoice, device: str) -> Dtype:
    """The precision that may be used besides float32.

    ``auto`` goes by capability and not by a timed trial: what a run measures, and under which key,
    must be the same in every process, on a busy machine too. Where a processor only emulates
    bfloat16, by widening every operand, it is slower than float32, and is not taken.
    """
    if choice != "auto":
        return choice
    return "bfloat16" if _computes_bfloat16(device) else "float32"


def _computes_bfloat16(device: str) -> bool:
    if device == "cpu":
        return not set(_NATIVE).isdisjoint(_processor_features())
    kind, _, index = device.partition(":")
    number = int(index or 0)
    if kind != "cuda" or number >= device_count("cuda"):
        return False
    import torch

    capable = torch.cuda.get_device_capability(number)[0] >= _AMPERE
    return capable or torch.version.hip is not None  # as torch has it of AMD's


def _processor_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Features of the first processor; none where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return value.split()
    return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: torch has several ways to say it."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    says_so = any(
        words in text for words in ("out of memory", "not enough memory", "allocate memory")
    )
    return isinstance(error, RuntimeError) and says_so
