"""In which precision a model runs: float32, or bfloat16 where the hardware computes in it."""

from pathlib import Path
from typing import Literal, TypeAlias

from robustness.runtime.devices import gpu_computes_bfloat16

Dtype: TypeAlias = Literal["float32", "bfloat16"]
DtypeChoice: TypeAlias = Literal["float32", "bfloat16", "auto"]

_NATIVE = ("avx512_bf16", "amx_bf16")
"""Processor features, as Linux names them, that multiply bfloat16 matrices natively."""


def chosen_dtype(choice: DtypeChoice, device: str) -> Dtype:
    """The precision that may be used besides float32.

    ``auto`` goes by capability and not by a timed trial: what a run measures, and under which key,
    must be the same in every process, on a busy machine too. Where a processor only emulates
    bfloat16, by widening every operand, it is slower than float32, and is not taken.

    Args:
        choice: the policy's setting.
        device: ``cpu``, ``cuda[:n]`` or ``mps``.
    """
    if choice != "auto":
        return choice
    return "bfloat16" if _computes_natively(device) else "float32"


def _computes_natively(device: str) -> bool:
    if device == "cpu":  # asked of the system: a second run needs no torch
        return not set(_NATIVE).isdisjoint(_processor_features())
    kind, _, index = device.partition(":")
    return kind == "cuda" and gpu_computes_bfloat16(int(index or 0))


def _processor_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Of the first processor; none where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return value.split()
    return []
