"""Measured numbers on disk: content-addressed, atomic, shared by processes, resumable.

Layout below the root::

    v1/<context>/context.json          what all records of the folder have in common, readable
    v1/<context>/ab/abcdef….json       one record
    v1/<context>/locks/ab.lock

A *context* is everything that a number depends on and that a run does not vary (weights,
tokenizer, corpus, scoring, dtype, versions …); a *key* is what it does vary (chunk, ablation).
Both are named by the SHA-256 of their canonical JSON. A record carries its own key and a checksum:
what does not check is dropped and measured again. Where the folder cannot be written, records
live in memory only: measurements are never lost to a full disk, only not shared.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from robustness.store.eviction import mark_used
from robustness.store.files import write_atomically

SCHEMA = 1

Record = dict[str, Any]
"""JSON types only. Floats survive exactly; infinities and NaN as JSON's ``Infinity``/``NaN``."""


def canonical_json(facts: Any) -> str:
    """One text for one value: sorted keys, no spaces."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(facts: Any) -> str:
    """SHA-256 of the canonical JSON, hexadecimal."""
    return sha256(canonical_json(facts).encode()).hexdigest()


def default_root() -> Path:
    """The store's folder where none is named: in the user's cache."""
    from platformdirs import user_cache_path

    return user_cache_path("pytest-robustness")


class Store:
    """The records of one context, in a folder that is created when the first one is written.

    What was written before ``newer_than`` (seconds since the epoch) counts as missing. Records that
    are too large for it do not stay ``in_memory``, unless they cannot be written.
    """

    def __init__(
        self,
        root: Path,
        context: Mapping[str, Any],
        *,
        newer_than: float | None = None,
        in_memory: bool = True,
    ) -> None:
        self.context = dict(context)
        self.folder = root / f"v{SCHEMA}" / digest(self.context)[:32]
        self.unwritable: str | None = None
        self._newer_than = newer_than
        self._marked = False
        self._in_memory = in_memory
        self._memory: dict[str, Record] = {}

    def read(self, key: Mapping[str, Any]) -> Record | None:
        """The record of ``key``; ``None`` where there is none, or only a damaged one."""
        name = digest(key)
        if name in self._memory:
            return self._memory[name]
        record = self._read_file(self._path(name), dict(key))
        if record is not None and self._in_memory:
            self._memory[name] = record
        return record

    def write(self, key: Mapping[str, Any], record: Record) -> None:
        """Keep a record; visible to other processes all at once or not at all."""
        name = digest(key)
        body = {"key": dict(key), "record": record}
        text = canonical_json({**body, "sha256": digest(body)})
        try:
            self._ensure_context()
            write_atomically(self._path(name), text)
        except OSError as error:
            self.unwritable = f"{error.strerror or error} ({self.folder})"
        if self._in_memory or self.unwritable is not None:
            self._memory[name] = record

    def obtain(
        self,
        keys: Iterable[Mapping[str, Any]],
        measure: Callable[[Mapping[str, Any]], Record],
    ) -> list[Record]:
        """The records of ``keys``, measuring those that no process has measured yet.

        What another process is measuring right now is left to it: this one goes on with its other
        keys first and waits only when nothing else is left.
        """
        if not self._marked:
            mark_used(self.folder)
            self._marked = True
        wanted = list(keys)
        records: dict[int, Record] = {}
        pending = list(range(len(wanted)))
        timeout = 0.0
        while pending:
            for index in list(pending):
                record = self._obtain_one(wanted[index], measure, timeout)
                if record is not None:
                    records[index] = record
                    pending.remove(index)
            timeout = 0.25
        return [records[index] for index in range(len(wanted))]

    def _obtain_one(
        self,
        key: Mapping[str, Any],
        measure: Callable[[Mapping[str, Any]], Record],
        timeout: float,
    ) -> Record | None:
        record = self.read(key)
        if record is not None:
            return record
        with self._lock(key, timeout) as held:
            if not held:
                return None
            record = self.read(key)  # another process may have finished it meanwhile
            if record is None:
                record = measure(key)
                self.write(key, record)
            return record

    @contextmanager
    def _lock(self, key: Mapping[str, Any], timeout: float) -> Iterator[bool]:
        """Held by one process at a time; released by the system when its holder dies."""
        path = self.folder / "locks" / f"{digest(key)[:2]}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, timeout=timeout)
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:  # a read-only or full disk: work alone
            self.unwritable = f"{error.strerror or error} ({self.folder})"
            yield True
            return
        try:
            yield True
        finally:
            lock.release()

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.json"

    def _ensure_context(self) -> None:
        path = self.folder / "context.json"
        if not path.exists():
            write_atomically(path, json.dumps(self.context, indent=1, sort_keys=True))

    def _read_file(self, path: Path, key: Record) -> Record | None:
        try:
            if self._newer_than is not None and path.stat().st_mtime < self._newer_than:
                return None
            data = json.loads(path.read_text(encoding="utf-8"))
            body = {"key": data["key"], "record": data["record"]}
            if data["sha256"] == digest(body) and data["key"] == key:
                record: Record = data["record"]
                return record
        except OSError:  # not there, or not readable now: no reason to throw it away
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None
