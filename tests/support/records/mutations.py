"""Real, valid files with something wrong in them: bytes, or the structure of the JSON they hold."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True, kw_only=True)
class Case:
    """A reader and the inputs it gets.

    Attributes:
        file: what is overwritten with them.
        valid: what it holds at first.
        inputs: its contents with something wrong in them.
        read: reads it, and asserts that what it returns is valid.
    """

    file: Path
    valid: bytes
    inputs: st.SearchStrategy[bytes]
    read: Callable[[], object]


Arrange = Callable[[Path], Case]
"""Puts a valid file into an empty folder."""


DEEP = 3000
"""Nesting that overruns Python's parser."""

ODD_BYTES = (
    b"\x00", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x00" * 8, b"\n", b"\r\n", b"\x1b[2J",
    b"::error::", b"##[error]", b"\xe2\x80\xae", b"\xed\xa0\x80", b"../../", b"{", b"}", b'"',
    b"[" * DEEP, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null",
)  # fmt: skip
"""What upsets parsers and terminals: lengths, brackets, control sequences, half a surrogate."""

_LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64 - 1, 10**30, -(10**30), 0.5, -0.0, 1e308,
    float("inf"), float("nan"), "", "x", "\x1b[2J", "::error::x", "a\nb", "\u202e", "\ud800",
    "../../outside", "/etc/passwd", "F32", "x" * 5000, [], {}, [[]], [1, 2], {"": None},
    {"type": "x"},
)  # fmt: skip


def spoilt_bytes(content: bytes, *, head: int | None = None) -> st.SearchStrategy[bytes]:
    """One to four edits of a file: bits, bytes and pieces changed, lost, repeated or foreign.

    Args:
        content: what the file holds.
        head: edits begin in that many first bytes, where a header is; anywhere by default.
    """
    places = st.integers(0, min(len(content), head or len(content)))
    lengths = st.one_of(st.integers(0, 16), st.integers(0, 4096))
    pieces = st.one_of(st.sampled_from(ODD_BYTES), st.binary(max_size=16))
    edit = st.tuples(
        st.sampled_from(("overwrite", "insert", "delete", "repeat", "flip", "cut")),
        places,
        lengths,
        pieces,
    )
    return st.lists(edit, min_size=1, max_size=4).map(lambda edits: _edited(content, edits))


def _edited(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    for kind, place, length, piece in edits:
        before, after = content[:place], content[place:]
        if kind == "overwrite":
            content = before + piece + after[len(piece) :]
        elif kind == "insert":
            content = before + piece + after
        elif kind == "delete":
            content = before + after[length:]
        elif kind == "repeat":
            content = before + after[:length] + after
        elif kind == "flip" and after:
            content = before + bytes([after[0] ^ 1 << length % 8]) + after[1:]
        elif kind == "cut":
            content = before
    return content


def spoilt_json(value: Any) -> st.SearchStrategy[bytes]:
    """JSON in which values have other types, keys are lost, renamed or repeated, or all is deep."""
    edits = st.lists(st.tuples(_places(value), _change()), min_size=1, max_size=3)
    finish = st.one_of(
        st.just(("", "")),
        st.tuples(st.just("twice"), st.sampled_from(_keys(value) or [""])),
        st.tuples(st.just("deep"), st.sampled_from(_keys(value) or [""])),
    )
    return st.tuples(edits, finish).map(lambda drawn: _respelt(value, *drawn))


def _change() -> st.SearchStrategy[tuple[str, Any]]:
    return st.one_of(
        st.tuples(st.just("set"), st.sampled_from(_LEAVES)),
        st.tuples(st.just("set"), st.sampled_from(_LEAVES).map(lambda leaf: [leaf])),
        st.tuples(st.just("delete"), st.none()),
        st.tuples(st.just("rename"), st.text(max_size=8)),
        st.tuples(st.just("scale"), st.sampled_from((-1, 0, 2, 10**6, 10**12))),
        st.tuples(st.just("add"), st.sampled_from(_LEAVES)),
    )


def _paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here]
    items: Any = ()
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        found += _paths(item, (*here, key))
    return found


def _places(value: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.sampled_from(_paths(value))


def _keys(value: Any) -> list[str]:
    return sorted({key for path in _paths(value) for key in path if isinstance(key, str)})


def _respelt(value: Any, edits: list[Any], finish: tuple[str, str]) -> bytes:
    value = json.loads(json.dumps(value))
    for path, (kind, operand) in edits:
        value = _changed(value, path, kind, operand)
    text = json.dumps(value)
    how, key = finish
    spelt = re.escape(json.dumps(key))
    if how == "twice":
        text = re.sub(f"{spelt}:", lambda found: f"{found[0]} null, {found[0]}", text, count=1)
    if how == "deep":
        deep = "[" * DEEP + "]" * DEEP
        text = re.sub(f"{spelt}: ", lambda found: f'"deep": {deep}, {found[0]}', text, count=1)
    return text.encode()


def _changed(value: Any, path: tuple[Any, ...], kind: str, operand: Any) -> Any:
    """The value with one change at a path; a path that an earlier change removed is left alone."""
    operand = copy.deepcopy(operand)  # one leaf may come into several places
    if not path:
        return operand if kind == "set" else value
    parent = value
    for key in path[:-1]:
        parent = _child(parent, key)
    key = path[-1]
    old = _child(parent, key)
    if old is _ABSENT:
        return value
    if kind == "set":
        parent[key] = operand
    elif kind == "scale" and isinstance(old, int | float):
        parent[key] = old * operand
    elif kind == "add" and isinstance(old, list):
        old.append(operand)
    elif kind == "add" and isinstance(old, dict):
        old["added"] = operand
    elif kind == "delete":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[operand] = parent.pop(key)
    return value


_ABSENT = object()


def _child(parent: Any, key: Any) -> Any:
    if isinstance(parent, dict):
        return parent.get(key, _ABSENT) if isinstance(key, str) else _ABSENT
    if isinstance(parent, list) and isinstance(key, int) and key < len(parent):
        return parent[key]
    return _ABSENT
