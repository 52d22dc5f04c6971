"""What a worker gets of the machine."""

import pytest

from robustness.pytest_support.state import worker_device


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ("cuda", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 1, ["cuda:0"] * 4),
        ("cuda:1", 4, ["cuda:1"] * 4),
        ("cpu", 4, ["cpu"] * 4),
        ("mps", 0, ["mps"] * 4),
    ],
)
def test_each_worker_has_a_gpu_of_its_own_while_there_are_enough(
    device: str, gpus: int, expected: list[str]
) -> None:
    dealt = [worker_device(device, worker, visible=lambda: gpus) for worker in range(4)]
    assert dealt == expected


def test_nobody_looks_for_gpus_where_none_is_asked_for() -> None:
    def visible() -> int:
        raise AssertionError("torch would be imported")

    assert worker_device("cpu", 1, visible=visible) == "cpu"
