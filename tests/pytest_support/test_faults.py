"""Accidents in the middle of a run: nothing measured is lost, and nothing wrong is believed."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from robustness.store.hashing import file_sha256
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model
from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf
from tests.support.plugin import plugin_support
from tests.support.plugin.faults import Place, environment_with, measured
from tests.support.plugin.plugin_support import Run, Stubs, lasting, read_json, text_of, verdicts

SELECTION = ("-k", "finite or joint")
"""Two checks: three chunks intact, and the same ablated."""


@pytest.fixture
def place(stubs: Stubs, tmp_path: Path) -> Place:
    """An empty store of its own."""
    options = (f"--model={stubs.model}", f"--robustness-corpus={stubs.corpus}", *SELECTION)
    return Place(root=tmp_path, options=options)


@pytest.fixture(scope="module")
def undisturbed(stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Run]:
    """A run without accidents."""
    options = (f"--model={stubs.model}", f"--robustness-corpus={stubs.corpus}", *SELECTION)
    place = Place(root=tmp_path_factory.mktemp("undisturbed"), options=options)
    with pytest.MonkeyPatch.context() as patch:
        run = place.run(patch, "run")
    assert run.result.ret == pytest.ExitCode.OK
    assert set(run.verdicts.values()) == {"pass"}
    assert len(place.written()) == len(place.records()) >= 4
    return place, run


Undisturbed = tuple[Place, Run]


def a_rerun_is_undisturbed(
    place: Place, monkeypatch: pytest.MonkeyPatch, undisturbed: Undisturbed
) -> None:
    """It goes on where the other stopped, and ends as if nothing had happened."""
    kept = len(place.records())
    rerun = place.run(monkeypatch, "rerun")
    assert rerun.result.ret == pytest.ExitCode.OK
    assert lasting(rerun.facts) == lasting(undisturbed[1].facts)
    assert place.written() == undisturbed[0].written()  # every chunk once, none of them again
    assert kept >= 1


# --- killed, interrupted -------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_worker_killed_while_it_measures_is_a_failure_and_its_work_is_kept(
    at: int, place: Place, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place.run(monkeypatch, "killed", "-n", "2", fault="kill this", at=at)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    run.result.stdout.fnmatch_lines_random(
        ["*crashed while running*", "robustness: * was collected but gave no verdict"]
    )
    assert not run.facts["passed"]
    assert len(run.facts["problems"]) == 1
    assert set(verdicts(run.facts).values()) <= {"pass"}
    a_rerun_is_undisturbed(place, monkeypatch, undisturbed)


@pytest.mark.slow
def test_a_run_killed_as_a_whole_goes_on_where_it_was(
    place: Place, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place.folder("killed")
    code = subprocess.run(
        [sys.executable, "-m", "pytest", *place.arguments("--robustness-json=report.json")],
        cwd=folder,
        env=environment_with(**place.environment("kill this", 3)),
        capture_output=True,
        timeout=300,
        check=False,
    ).returncode
    assert code == -9
    assert not (folder / "report.json").exists()
    assert len(place.records()) == 2
    a_rerun_is_undisturbed(place, monkeypatch, undisturbed)


@pytest.mark.parametrize(
    ("fault", "more"),
    [
        pytest.param("interrupt this", (), marks=pytest.mark.slow),
        pytest.param("interrupt controller", ("-n", "2"), marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_is_no_pass_and_goes_on_where_it_was(
    fault: str,
    more: tuple[str, ...],
    place: Place,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = place.run(monkeypatch, "interrupted", *more, fault=fault, at=3)
    assert run.result.ret == pytest.ExitCode.INTERRUPTED
    assert not run.facts["passed"]
    assert run.facts["exit_status"] == pytest.ExitCode.INTERRUPTED
    assert run.facts["problems"]
    a_rerun_is_undisturbed(place, monkeypatch, undisturbed)


# --- no room, no right, no memory ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "at", "more"),
    [
        ("full", 0, ()),
        pytest.param("full", 3, (), marks=pytest.mark.slow),
        pytest.param("full", 3, ("-n", "2"), marks=pytest.mark.slow),
        pytest.param("read-only", 0, (), marks=pytest.mark.slow),
        pytest.param("read-only", 0, ("-n", "2"), marks=pytest.mark.slow),
    ],
)
def test_a_store_that_cannot_be_written_costs_time_and_nothing_else(
    fault: str,
    at: int,
    more: tuple[str, ...],
    place: Place,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = place.run(monkeypatch, "unwritable", *more, fault=fault, at=at)
    assert run.result.ret == pytest.ExitCode.OK
    assert measured(run.facts) == measured(undisturbed[1].facts)
    assert len(place.records()) <= at
    if not more:  # the model is loaded once, and what it measured is kept in memory
        assert place.written() == undisturbed[0].written()
    assert "Traceback" not in text_of(run.result)
    if at == 0:
        says = {"full": "No space left on device", "read-only": "Read-only file system"}[fault]
        assert f"nothing is kept for another run: {says}" in " ".join(
            run.facts["checkpoints"][0]["notes"]
        )


@pytest.mark.slow
def test_what_does_not_fit_into_memory_is_an_error_and_the_rest_is_kept(
    place: Place, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place.run(monkeypatch, "memory", fault="memory", at=3)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    assert "error" in run.verdicts.values()
    assert not run.facts["passed"]
    a_rerun_is_undisturbed(place, monkeypatch, undisturbed)


class NoRoom:
    """``os.open`` and ``os.mkdir`` below a folder, on a full disk."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = str(root)
        monkeypatch.setattr(os, "open", self._refusing(os.open))
        monkeypatch.setattr(os, "mkdir", self._refusing(os.mkdir))

    def _refusing(self, function: Callable[..., object]) -> Callable[..., object]:
        def act(path: str, *args: object, **options: object) -> object:
            writes = function.__name__ == "mkdir" or args[0]
            if str(path).startswith(self.root) and writes:
                raise OSError(28, "No space left on device", str(path))
            return function(path, *args, **options)

        return act


@pytest.mark.parametrize("exists", [True, False])
def test_weights_are_converted_by_each_process_where_no_copy_can_be_kept(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model().to(torch.bfloat16)
    folder = save_checkpoint(tmp_path / "half", model)
    if exists:
        (tmp_path / "cache" / "float32").mkdir(parents=True)
    NoRoom(tmp_path / "cache", monkeypatch)
    loaded = resolve(str(folder), cache=tmp_path / "cache").load_model()
    for name, value in loaded.named_parameters():
        assert torch.equal(value, model.get_parameter(name).float())


@pytest.mark.parametrize("exists", [True, False])
def test_a_gguf_file_that_cannot_be_converted_is_one_sentence(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(
        "LlamaForCausalLM", vocab_size=len(TOKENS), num_key_value_heads=1, tie_word_embeddings=True
    )
    file = write_llama_gguf(tmp_path / "tiny.gguf", model)
    if exists:
        (tmp_path / "cache" / "gguf").mkdir(parents=True)
    NoRoom(tmp_path / "cache", monkeypatch)
    with pytest.raises(CheckpointError, match=r"No space left on device.*--robustness-store"):
        resolve(str(file), cache=tmp_path / "cache")


# --- damage --------------------------------------------------------------------------------------


def truncated(file: Path, _: bytes) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path, _: bytes) -> None:
    os.truncate(file, 0)


def flipped(file: Path, _: bytes) -> None:
    """One bit of a digit of a number, so that the JSON stays valid."""
    content = bytearray(file.read_bytes())
    place = content.index(b'"nll_nats":[') + 14
    assert chr(content[place]).isdigit() or chr(content[place - 1]).isdigit()
    place = place if chr(content[place]).isdigit() else place - 1
    content[place] ^= 1
    file.write_bytes(bytes(content))


def of_another_key(file: Path, other: bytes) -> None:
    file.write_bytes(other)


def zeroed(file: Path, _: bytes) -> None:
    """What some file systems leave of a file after the power failed."""
    file.write_bytes(bytes(file.stat().st_size))


def a_folder(file: Path, _: bytes) -> None:
    file.unlink()
    file.mkdir()


DAMAGE = (truncated, emptied, flipped, of_another_key, zeroed)


def test_damaged_chunks_are_measured_again(
    place: Place, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed[0].store, place.store)
    records = place.records()
    intact = {file: file.read_bytes() for file in records}
    for number, file in enumerate(records):
        DAMAGE[number % len(DAMAGE)](file, intact[records[number - 1]])
    assert all(file.read_bytes() != content for file, content in intact.items())
    run = place.run(monkeypatch, "mended")
    assert lasting(run.facts) == lasting(undisturbed[1].facts)
    assert {file: file.read_bytes() for file in records} == intact
    assert place.written() == undisturbed[0].written()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGE, a_folder])
def test_every_kind_of_damage_is_found_in_every_chunk(
    damage: Callable[[Path, bytes], None],
    place: Place,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(undisturbed[0].store, place.store)
    records = place.records()
    intact = {file: file.read_bytes() for file in records}
    for number, file in enumerate(records):
        damage(file, intact[records[number - 1]])
    run = place.run(monkeypatch, "mended")
    assert measured(run.facts) == measured(undisturbed[1].facts)
    assert place.written().keys() == undisturbed[0].written().keys()


# --- the clock -----------------------------------------------------------------------------------


def test_a_file_from_the_future_is_hashed_every_time(tmp_path: Path) -> None:
    """After the clock was set back, a file may change again within the time stamp it has."""
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_bytes(b"one")
    ahead = time.time() + 3600
    os.utime(file, (ahead, ahead))
    first = file_sha256(file, memory=memory)
    with file.open("r+b") as stream:
        stream.write(b"two")
    os.utime(file, (ahead, ahead))  # as if written in that very moment
    assert file_sha256(file, memory=memory) != first


def test_a_file_changed_under_its_old_time_stamp_is_hashed_again(tmp_path: Path) -> None:
    """As rsync, tar and touch leave it; the time of the change of its status gives it away."""
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_bytes(b"one")
    os.utime(file, (1e9, 1e9))
    first = file_sha256(file, memory=memory)
    time.sleep(0.05)  # longer than the file system's clock stands still
    with file.open("r+b") as stream:
        stream.write(b"two")
    os.utime(file, (1e9, 1e9))
    assert file_sha256(file, memory=memory) != first


CLOCK = """
import datetime as module

class Earlier(module.datetime):
    days = 0

    @classmethod
    def now(cls, tz=None):
        Earlier.days += 1  # every look at the clock finds it set back by a day
        return super().now(tz) - module.timedelta(days=Earlier.days)

module.datetime = Earlier
"""


@pytest.mark.slow
def test_a_clock_set_back_changes_nothing_but_the_date(
    undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = undisturbed[0]
    folder = place.folder("yesterday")
    (folder / "clock.py").write_text(CLOCK)
    with monkeypatch.context() as patch:
        for name, text in place.environment().items():
            patch.setenv(name, text)
        run = plugin_support.run_suite(folder, "-p", "clock", *place.arguments())
    assert run.result.ret == pytest.ExitCode.OK
    assert lasting(run.facts) == lasting(undisturbed[1].facts)
    assert datetime.fromisoformat(run.facts["started"]) < datetime.now(UTC)
    assert 0 <= run.facts["duration_s"] < 300


# --- two at once ---------------------------------------------------------------------------------


def test_two_runs_share_a_store_and_measure_every_chunk_once(
    place: Place, undisturbed: Undisturbed
) -> None:
    runs = []
    for name in ("first", "second"):
        folder = place.folder(name)
        runs.append(
            subprocess.Popen(
                [sys.executable, "-m", "pytest", *place.arguments("--robustness-json=report.json")],
                cwd=folder,
                env=environment_with(**place.environment()),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    assert [run.wait(300) for run in runs] == [0, 0]
    for name in ("first", "second"):
        facts = read_json(place.root / name / "report.json")
        assert lasting(facts) == lasting(undisturbed[1].facts)
    assert place.written() == undisturbed[0].written()


@pytest.mark.slow
def test_two_workers_measure_every_chunk_once(
    place: Place, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both checks need the intact model's, and run at the same time."""
    run = place.run(monkeypatch, "workers", "-n", "2")
    assert run.result.ret == pytest.ExitCode.OK
    assert place.written() == undisturbed[0].written()
    assert set(place.written().values()) == {1}
