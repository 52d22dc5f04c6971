"""Which devices there are and in which precision they compute; GPUs are stand-ins here."""

import subprocess
import sys

import pytest
import torch

from robustness.runtime.devices import chosen_dtype, device_count


def test_torch_counts_the_devices() -> None:
    assert device_count("cuda") == torch.cuda.device_count()
    assert device_count("mps") == int(torch.backends.mps.is_available())


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda", "float32"),  # a Volta
        ("cuda:1", "bfloat16"),
        ("cuda:2", "bfloat16"),
        ("cuda:3", "float32"),  # there is none
    ],
)
def test_auto_goes_by_what_each_gpu_multiplies(
    device: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda n: ((7, 0), (8, 6), (9, 0))[n])
    assert chosen_dtype("auto", device) == expected


def test_gpus_of_another_make_multiply_as_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (1, 0))
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert chosen_dtype("auto", "cuda:0") == "bfloat16"


def test_a_processor_is_asked_without_torch() -> None:
    script = (
        "import sys\n"
        "from robustness.runtime.devices import chosen_dtype\n"
        "from robustness.runtime.libraries import library_versions\n"
        "assert chosen_dtype('auto', 'cpu') in ('float32', 'bfloat16')\n"
        "assert library_versions()['torch'][0].isdigit()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
