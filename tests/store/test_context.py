"""What all measuring in a process shares."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from robustness.store.context import Context

IDENTITY = {"model": "m"}


def test_two_of_the_same_identity_share_their_records(tmp_path: Path) -> None:
    context = Context(root=tmp_path)
    context.store(IDENTITY).write({"chunk": 0}, {"value": 1})
    assert Context(root=tmp_path).store(dict(IDENTITY)).read({"chunk": 0}) == {"value": 1}
    assert context.store({"model": "another"}).read({"chunk": 0}) is None
    assert Context(root=tmp_path / "elsewhere").store(IDENTITY).read({"chunk": 0}) is None


def test_what_is_older_than_asked_for_is_not_used(tmp_path: Path) -> None:
    Context(root=tmp_path).store(IDENTITY).write({"chunk": 0}, {"value": 1})
    (written,) = (
        path.stat().st_mtime for path in tmp_path.rglob("*.json") if "context" not in path.name
    )
    for since, expected in ((written - 10, {"value": 1}), (written + 10, None)):
        store = Context(root=tmp_path, newer_than=since).store(IDENTITY)
        assert store.read({"chunk": 0}) == expected


def test_nobody_waits_unless_somebody_says_so(tmp_path: Path) -> None:
    context, said = Context(root=tmp_path), list[str]()
    context.progress("a line")
    replace(context, progress=said.append).progress("another")
    assert said == ["another"]


def test_it_is_handed_on_unchanged(tmp_path: Path) -> None:
    context = Context(root=tmp_path)
    assert context.threads is None
    with pytest.raises(FrozenInstanceError):
        context.root = tmp_path / "elsewhere"  # type: ignore[misc]
