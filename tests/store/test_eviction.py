"""The store's bound: least recently used first, and nothing that is in use."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from robustness.store.eviction import IN_USE_S, evict, mark_used

NOW = 1_000_000.0


def _unit(root: Path, name: str, *, n_bytes: int, age_s: float) -> Path:
    folder = root / name
    (folder / "ab").mkdir(parents=True)
    (folder / "ab" / "record.json").write_bytes(b"x" * n_bytes)
    os.utime(folder, (NOW - age_s, NOW - age_s))
    return folder


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    oldest = _unit(tmp_path, "gguf/old", n_bytes=500, age_s=9 * IN_USE_S)
    numbers = _unit(tmp_path, "v1/numbers", n_bytes=300, age_s=5 * IN_USE_S)
    newer = _unit(tmp_path, "float32/new", n_bytes=400, age_s=2 * IN_USE_S)
    assert evict(tmp_path, limit_bytes=1200, now=NOW) == []
    assert evict(tmp_path, limit_bytes=700, now=NOW) == [oldest]
    assert not oldest.exists()
    assert (numbers / "ab" / "record.json").exists()
    assert newer.exists()
    leftovers = [path for path in tmp_path.rglob(".*") if path.is_dir()]
    assert leftovers == []


def test_using_something_keeps_it(tmp_path: Path) -> None:
    kept = _unit(tmp_path, "float32/kept", n_bytes=500, age_s=1e9)
    other = _unit(tmp_path, "float32/other", n_bytes=500, age_s=2 * IN_USE_S)
    mark_used(kept)
    assert evict(tmp_path, limit_bytes=0, now=kept.stat().st_mtime) == [other]
    assert kept.exists()


def test_what_somebody_is_writing_stays(tmp_path: Path) -> None:
    folder = _unit(tmp_path, "gguf/busy", n_bytes=500, age_s=2 * IN_USE_S)
    with FileLock(f"{folder}.lock"):
        assert evict(tmp_path, limit_bytes=0, now=NOW) == []
    assert evict(tmp_path, limit_bytes=0, now=NOW) == [folder]


def test_a_store_that_is_not_there_needs_no_room(tmp_path: Path) -> None:
    assert evict(tmp_path / "nothing", limit_bytes=0, now=NOW) == []
    mark_used(tmp_path / "nothing")


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=6),
    limit=st.integers(0, 4000),
    in_use=st.integers(0, 6),
)
def test_the_bound_is_kept_unless_everything_left_is_in_use(
    sizes: list[int], limit: int, in_use: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("store")
    for number, size in enumerate(sizes):
        age = 60.0 if number < in_use else (2 + number) * IN_USE_S
        _unit(root, f"v1/{number}", n_bytes=size, age_s=age)
    removed = {folder.name for folder in evict(root, limit_bytes=limit, now=NOW)}
    left = {str(n): size for n, size in enumerate(sizes) if str(n) not in removed}
    assert all(int(name) >= in_use for name in removed)
    assert sum(left.values()) <= limit or all(int(name) < in_use for name in left)
    oldest_first = sorted(removed, key=int, reverse=True)
    assert oldest_first == [
        str(n) for n in range(len(sizes) - 1, len(sizes) - 1 - len(removed), -1)
    ]
