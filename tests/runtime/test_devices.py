"""What a second run asks about GPUs, without torch; the driver is a stand-in here."""

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robustness.runtime import devices

CAPABILITY_MAJOR = 75  # of the driver's header, cuda.h


class Driver:
    """Answers as NVIDIA's driver does: results through pointers, zero for success."""

    def __init__(self, *majors: int, error: int = 0) -> None:
        self._majors = majors
        self._error = error

    def cuInit(self, flags: int) -> int:  # noqa: N802 (the driver's name)
        assert flags == 0
        return self._error

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self._majors)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = 100 + ordinal
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        assert attribute == CAPABILITY_MAJOR
        value._obj.value = self._majors[device.value - 100]
        return 0


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in a process that has not imported torch, but a torch that is built for CUDA."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(devices, "_build", lambda: {"__version__": "9.9+cu999", "cuda": "99.9"})
    return monkeypatch


def _driven(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)


def test_gpus_and_what_they_multiply(without_torch: pytest.MonkeyPatch) -> None:
    _driven(without_torch, Driver(7, 8, 9))
    assert devices.gpu_count() == 3
    assert [devices.gpu_computes_bfloat16(n) for n in range(4)] == [False, True, True, False]
    assert "torch" not in sys.modules


@pytest.mark.parametrize("error", [3, 100])  # not initialised, no device
def test_torch_is_asked_where_the_driver_does_not_start(
    without_torch: pytest.MonkeyPatch, error: int
) -> None:
    _driven(without_torch, Driver(9, error=error))
    _answered_by_torch(without_torch)


def test_torch_is_asked_where_there_is_no_driver(without_torch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    without_torch.setattr(ctypes, "CDLL", missing)
    _answered_by_torch(without_torch)


def _answered_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)  # what an import would find
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert devices._capabilities() is None
    assert devices.gpu_count() == 5
    assert devices.gpu_computes_bfloat16(0)


def test_a_torch_for_the_processor_alone_uses_none(without_torch: pytest.MonkeyPatch) -> None:
    without_torch.setattr(devices, "_build", lambda: {"__version__": "9.9+cpu", "cuda": None})
    _driven(without_torch, Driver(9))
    assert devices.gpu_count() == 0


def test_where_torch_is_there_it_is_asked() -> None:
    assert devices.gpu_count() == torch.cuda.device_count()
    assert devices.torch_version() == torch.__version__


def test_what_is_found_without_torch_is_what_torch_finds(tmp_path: Path) -> None:
    script = tmp_path / "ask.py"
    script.write_text(
        "import sys\n"
        "from robustness.runtime.devices import gpu_computes_bfloat16, gpu_count, torch_version\n"
        "found = [torch_version(), gpu_count(), gpu_computes_bfloat16(0)]\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "native = torch.cuda.is_bf16_supported(including_emulation=False)\n"
        "assert found == [torch.__version__, torch.cuda.device_count(), native], found\n"
    )
    subprocess.run([sys.executable, str(script)], check=True)
