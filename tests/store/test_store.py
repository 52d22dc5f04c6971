"""The store: atomic, self-checking, shared by processes, usable where it cannot be written."""

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustness.store.store import Store, digest

CONTEXT = {"weights": "abc", "versions": {"torch": "1"}}


def test_what_is_written_is_read_back_by_another_object(tmp_path: Path) -> None:
    record = {"nll_nats": [0.1, 1e300, float("inf")], "tokens": [1, 2, 3]}
    Store(tmp_path, CONTEXT).write({"chunk": 1}, record)
    assert Store(tmp_path, CONTEXT).read({"chunk": 1}) == record
    assert Store(tmp_path, CONTEXT).read({"chunk": 2}) is None
    assert Store(tmp_path, {**CONTEXT, "weights": "abd"}).read({"chunk": 1}) is None


@given(values=st.lists(st.floats(allow_nan=False), max_size=20))
def test_floats_survive_exactly(values: list[float], tmp_path_factory: Any) -> None:
    root = tmp_path_factory.mktemp("store")
    Store(root, {}).write({}, {"values": values})
    assert Store(root, {}).read({}) == {"values": values}


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    store = Store(tmp_path, CONTEXT)
    store.write({"chunk": 1}, {"x": 1})
    assert json.loads((store.folder / "context.json").read_text()) == CONTEXT


def _files(store: Store) -> list[Path]:
    return [path for path in store.folder.glob("??/*.json") if len(path.stem) == 64]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "",
        lambda text: text.replace('"x":1', '"x":2'),
        lambda _: "[]",
        lambda _: "null",
    ],
    ids=["truncated", "empty", "changed", "another type", "null"],
)
def test_a_damaged_record_is_dropped_and_measured_again(tmp_path: Path, damage: Any) -> None:
    Store(tmp_path, CONTEXT).write({"chunk": 1}, {"x": 1})
    (file,) = _files(Store(tmp_path, CONTEXT))
    file.write_text(damage(file.read_text()))
    store = Store(tmp_path, CONTEXT)
    assert store.read({"chunk": 1}) is None
    assert not file.exists()
    assert store.obtain([{"chunk": 1}], lambda _: {"x": 1}) == [{"x": 1}]
    assert Store(tmp_path, CONTEXT).read({"chunk": 1}) == {"x": 1}


def test_a_record_under_another_key_is_not_believed(tmp_path: Path) -> None:
    store = Store(tmp_path, CONTEXT)
    store.write({"chunk": 1}, {"x": 1})
    (file,) = _files(store)
    name = digest({"chunk": 2})
    target = store.folder / name[:2] / f"{name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(file.read_text())
    assert Store(tmp_path, CONTEXT).read({"chunk": 2}) is None


def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    store = Store(tmp_path, CONTEXT)
    store.write({"chunk": 1}, {"x": 1})
    measured = []

    def measure(key: Any) -> dict[str, Any]:
        measured.append(key["chunk"])
        return {"x": key["chunk"]}

    keys = [{"chunk": n} for n in (0, 1, 2)]
    assert store.obtain(keys, measure) == [{"x": 0}, {"x": 1}, {"x": 2}]
    assert measured == [0, 2]


def test_a_failed_measurement_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(_: Any) -> dict[str, Any]:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        Store(tmp_path, CONTEXT).obtain([{"chunk": 1}], fail)
    assert Store(tmp_path, CONTEXT).obtain([{"chunk": 1}], lambda _: {"x": 1}) == [{"x": 1}]


def test_without_a_writable_folder_records_live_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = Store(blocked, CONTEXT)
    assert store.obtain([{"chunk": 1}], lambda _: {"x": 1}) == [{"x": 1}]
    assert store.read({"chunk": 1}) == {"x": 1}
    assert store.unwritable


def _worker(root: Path, log: Path, barrier: Any) -> None:
    store = Store(root, CONTEXT)

    def measure(key: Any) -> dict[str, Any]:
        time.sleep(0.02)
        with log.open("a") as file:
            file.write(f"{key['chunk']}\n")
        return {"x": key["chunk"]}

    barrier.wait()
    for n in range(8):
        assert store.obtain([{"chunk": n}], measure) == [{"x": n}]


def test_processes_that_need_the_same_numbers_measure_them_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    barrier = context.Barrier(3)
    workers = [
        context.Process(target=_worker, args=(tmp_path / "store", log, barrier)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(log.read_text().split()) == sorted(map(str, range(8)))


def test_a_process_goes_on_with_other_work_while_a_number_is_being_measured(
    tmp_path: Path,
) -> None:
    store, other = Store(tmp_path, CONTEXT), Store(tmp_path, CONTEXT)
    measured: list[int] = []

    def measure(key: Any) -> dict[str, Any]:
        measured.append(key["chunk"])
        if key["chunk"] == 2 and (held := holding.pop("lock", None)):
            other.write({"chunk": 1}, {"x": 1})  # the other process finishes
            held.__exit__(None, None, None)
        return {"x": key["chunk"]}

    lock = other._lock({"chunk": 1}, 0)
    holding = {"lock": lock}
    assert lock.__enter__()
    assert store.obtain([{"chunk": 1}, {"chunk": 2}], measure) == [{"x": 1}, {"x": 2}]
    assert measured == [2]


def test_what_is_older_than_asked_for_counts_as_missing(tmp_path: Path) -> None:
    old = Store(tmp_path, CONTEXT)
    old.write({"chunk": 0}, {"value": 1})
    (file,) = tmp_path.glob("v1/*/??/*.json")
    os.utime(file, (1000, 1000))
    assert Store(tmp_path, CONTEXT, newer_than=1000).read({"chunk": 0}) == {"value": 1}
    fresh = Store(tmp_path, CONTEXT, newer_than=1001)
    assert fresh.read({"chunk": 0}) is None
    assert fresh.obtain([{"chunk": 0}], lambda _: {"value": 2}) == [{"value": 2}]
    another = Store(tmp_path, CONTEXT, newer_than=1001)  # another worker of the same run
    assert another.read({"chunk": 0}) == {"value": 2}
