"""Names made to forge reports, or to give orders to a terminal or a CI runner."""

import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError, MeasurementError
from robustness.runtime.plain import plain
from robustness.statistics.verdict import Verdict
from tests.support.checkpoints import checkpoint_folders
from tests.support.plugin.plugin_support import (
    Run,
    Stubs,
    error_sentence,
    run_pytest,
    run_suite,
    text_of,
    verdicts,
)

cache = checkpoint_folders.cache
folder = checkpoint_folders.folder


ESCAPES = "\x1b[2J\x1b]0;title\x07\r\n::error::forged\u202e\u200b\x9b31m"


def is_harmless(text: str) -> bool:
    """Whether a terminal, a log and GitHub's runner take it for one line of text."""
    return text.isprintable() and not text.lstrip().startswith("::") and "##[" not in text


@given(text=st.text())
@example(text=ESCAPES)
@example(text="  ::error file=a::b")
@example(text="\ud800 \udcff")
@example(text="::" * 3000)
@example(text="##[error]##[error]")
def test_plain_text_is_one_harmless_line(text: str) -> None:
    assert is_harmless(plain(text))
    assert is_harmless(plain(text, limit=None))
    assert plain(plain(text, limit=None), limit=None) == plain(text, limit=None)
    assert len(plain(text, limit=100)) < 1100


@given(text=st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    ordinary = f"x{text.replace('##[', '').replace(chr(0xA0), '')}"
    if ordinary.isprintable():
        assert plain(ordinary) == ordinary


def test_errors_and_verdicts_quote_names_harmlessly() -> None:
    for error in (CheckpointError(ESCAPES), MeasurementError(f"x {ESCAPES}")):
        assert is_harmless(str(error))
        assert is_harmless(str(pickle.loads(pickle.dumps(error))))
    verdict = Verdict(outcome="fail", statement=ESCAPES, reason=ESCAPES)
    assert is_harmless(repr(verdict))
    assert all(map(is_harmless, verdict.explain().split("\n")))
    assert len(verdict.explain().split("\n")) == 2


@given(name=st.text(min_size=1).filter(lambda name: "/" not in name and "\0" not in name))
@example(name="..")
@example(name="::error::x")
@example(name="<script>alert(1)</script>")
@example(name=ESCAPES)
@example(name="-rf")
def test_labels_hold_nothing_but_letters_digits_and_three_signs(name: str) -> None:
    """They are what test ids, JUnit, reports and annotations call a checkpoint."""
    for label in CheckpointRef(text=name, kind="folder", target=f"/{name}/{name}").labels:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", label)


def test_names_that_no_terminal_should_see_are_refused(stubs: Stubs, tmp_path: Path) -> None:
    name = f"ck{ESCAPES.replace(chr(0), '')}"
    shutil.copytree(stubs.model, tmp_path / name)
    result = run_pytest(tmp_path / "run", f"--model={tmp_path / name}", *stubs.surroundings)
    assert "contains control characters" in error_sentence(result)
    assert "\x1b" not in text_of(result)


def test_an_error_in_a_folder_with_such_a_name_is_harmless(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is printable whatever stands before it."""
    where = tmp_path / ESCAPES
    where.mkdir()
    shutil.copytree(folder, where / "ck")
    (where / "ck" / "config.json").write_text("{")
    monkeypatch.chdir(where)
    with pytest.raises(CheckpointError) as caught:
        resolve("./ck", cache=cache)
    assert is_harmless(str(caught.value))
    assert "\\x1b[2J" in str(caught.value)


NAMES = ("::error title=forged::x", "##[error] <script>alert(1)</script> & %0A::error::x")
"""What is printable in folder names, and an order to a browser or a CI runner."""


@pytest.fixture(scope="module")
def forging(stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two checkpoints of such names in folders of such names, one with such a name in its file."""
    root = tmp_path_factory.mktemp("forging")
    folders = [root / ("long " * 12) / name / name for name in NAMES]
    for folder in folders:
        folder.parent.mkdir(parents=True)
        shutil.copytree(stubs.model, folder)
    file = folders[0] / "model.safetensors"
    tensors = {**load_file(file), f"a {ESCAPES}": torch.tensor([float("nan")])}
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    return run_suite(
        root / "run",
        *(f"--model={folder}" for folder in folders),
        *stubs.surroundings,
        "-k",
        "finite",
    )


def test_names_give_no_orders_to_the_terminal_or_the_runner(forging: Run) -> None:
    assert forging.result.ret == pytest.ExitCode.TESTS_FAILED  # the tensor that holds NaN
    text = text_of(forging.result)
    assert "\\x1b[2J" in text
    ours = [line for line in text.splitlines() if not line.startswith(("rootdir:", "cachedir:"))]
    assert [line for line in ours if not is_harmless(line)] == []


def test_names_forge_nothing_in_json_junit_and_ids(forging: Run) -> None:
    first, second = forging.facts["checkpoints"]
    assert (first["reference"].endswith(NAMES[0]), second["reference"].endswith(NAMES[1])) == (
        True,
        True,
    )
    assert all(
        label.isascii() and is_harmless(label) for label in (first["label"], second["label"])
    )
    assert sorted(verdicts(forging.facts).values()) == ["fail", "pass"]
    raw = (forging.folder / "report.json").read_text()
    assert "\x1b" not in raw
    assert not any(line.lstrip().startswith("::") for line in raw.splitlines())
    junit = (forging.folder / "junit.xml").read_text()
    assert "\x1b" not in junit
    assert "<script>" not in junit
    assert len(forging.properties) == 2


def test_names_lead_to_no_path(forging: Run, stubs: Stubs) -> None:
    left = {path.name for path in forging.folder.iterdir()} - {".pytest_cache"}
    assert left == {"report.json", "junit.xml"}
    parts = {
        part for path in stubs.store.rglob("*") for part in path.relative_to(stubs.store).parts
    }
    assert all(re.fullmatch(r"[a-z0-9]+(\.json|\.lock)?", part) for part in parts)
