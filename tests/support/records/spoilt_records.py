"""What runs leave or hand to each other, with something wrong in it, for its readers."""

import json
import os
from pathlib import Path

from hypothesis import strategies as st

from robustness.checkpoint.resolving import resolve
from robustness.report.json_document import as_json, render, sealed
from robustness.report.merge import merge, read_shard
from robustness.report.reporters import REPORTERS
from robustness.run.plan import RunPlan
from robustness.run.shards import Part, take
from robustness.store.hashing import file_sha256
from robustness.store.store import Store, digest
from tests.support.checkpoints.checkpoint_folders import save_checkpoint
from tests.support.records.mutations import Case, spoilt_bytes, spoilt_json
from tests.support.records.plans import plan
from tests.support.records.run_reports import shard_report

# --- what earlier runs have left -----------------------------------------------------------------

RECORD = {"nll_nats": [1.5, 2.25, float("inf")], "tokens": [19, 18, 19]}


def store_record(folder: Path) -> Case:
    key = {"chunk": 3, "id": "null"}
    Store(folder, {"weights": "w"}).write(key, RECORD)
    (file,) = [path for path in folder.rglob("*.json") if len(path.stem) == 64]
    content = file.read_bytes()

    def read() -> None:
        assert Store(folder, {"weights": "w"}).read(key) in (None, RECORD)

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


def remembered_hash(folder: Path) -> Case:
    folder.mkdir()
    hashed = folder / "file"
    hashed.write_text("content")
    os.utime(hashed, (1e9, 1e9))
    right = file_sha256(hashed, memory=folder / "memory")
    (file,) = (folder / "memory").iterdir()
    content = file.read_bytes()

    def read() -> None:
        assert file_sha256(hashed, memory=folder / "memory") == right

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


def remembered_facts(folder: Path) -> Case:
    save_checkpoint(folder / "tiny")
    right = resolve(str(folder / "tiny"), cache=folder / "cache")
    (file,) = (folder / "cache" / "checkpoints").iterdir()
    content = file.read_bytes()

    def read() -> None:
        assert resolve(str(folder / "tiny"), cache=folder / "cache") == right

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


# --- what processes and machines hand to each other ----------------------------------------------


def plan_of_a_run(folder: Path) -> Case:
    folder.mkdir()
    file = folder / "plan.json"
    right = take(plan("a", "b"), Part(index=1, count=2))
    content = right.to_json().encode()

    def read() -> None:
        text = file.read_bytes().decode("utf-8", errors="surrogateescape")
        assert RunPlan.from_json(text) == right

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


def report_of_a_shard(folder: Path) -> Case:
    folder.mkdir()
    file = folder / "report.json"
    right = shard_report()
    content = render(sealed(right)).encode()

    def read() -> None:
        assert read_shard(file) == right

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


def sealed_report_of_a_shard(folder: Path) -> Case:
    """Somebody else's program wrote it: the checksum is right, and the rest need not be."""
    folder.mkdir()
    file = folder / "report.json"
    right = as_json(shard_report())

    def seal(text: bytes) -> bytes:
        try:
            found = json.loads(text)
            return json.dumps({**found, "sha256": digest(found)}).encode()
        except (TypeError, ValueError, RecursionError):
            return text

    def read() -> None:
        report = merge([read_shard(file)], [str(file)])
        assert report.passed in (True, False)
        assert json.loads(render(report))["passed"] == report.passed
        for name in ("junit", "terminal", "markdown", "github"):
            assert REPORTERS[name].render(report)

    return Case(
        file=file,
        valid=render(sealed(shard_report())).encode(),
        inputs=spoilt_json(right).map(seal),
        read=read,
    )
