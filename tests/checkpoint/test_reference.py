import subprocess
import sys
from pathlib import Path

import pytest

from robustness.checkpoint.reference import CheckpointRef, unique_labels
from robustness.errors import CheckpointError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must never be imported, with a sub-package and files in it."""
    package = folder / "packed_model"
    (package / "inner" / "weights").mkdir(parents=True)
    for init in (package / "__init__.py", package / "inner" / "__init__.py"):
        init.write_text("raise AssertionError('imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    (package / "notes.txt").write_text("")
    (folder / "single_module.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(folder)
    return package


def test_an_existing_folder_is_a_folder(here: Path) -> None:
    (here / "out" / "checkpoint-9000").mkdir(parents=True)
    ref = CheckpointRef.parse("./out/checkpoint-9000")
    assert (ref.kind, ref.target) == ("folder", str(here / "out" / "checkpoint-9000"))
    assert ref.note is None


def test_an_existing_folder_wins_over_a_hub_id_of_the_same_name_and_says_so(here: Path) -> None:
    (here / "bert-base-uncased").mkdir()
    ref = CheckpointRef.parse("bert-base-uncased")
    assert ref.kind == "folder"
    assert "not a Hub model" in str(ref.note)


def test_a_revision_asks_for_the_hub_even_beside_a_folder_of_that_name(here: Path) -> None:
    (here / "bert-base-uncased").mkdir()
    ref = CheckpointRef.parse("bert-base-uncased@v1.0")
    assert (ref.kind, ref.target, ref.revision) == ("hub", "bert-base-uncased", "v1.0")
    assert "looked up on the Hub" in str(ref.note)


def test_a_folder_whose_name_contains_an_at_sign_is_a_folder(here: Path) -> None:
    (here / "model@main").mkdir()
    assert CheckpointRef.parse("model@main").kind == "folder"


def test_home_is_expanded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "model").mkdir()
    assert CheckpointRef.parse("~/model").target == str(here / "model")


@pytest.mark.parametrize(
    ("text", "target", "revision"),
    [
        ("bert-base-uncased", "bert-base-uncased", None),
        ("org/name", "org/name", None),
        ("org/name@main", "org/name", "main"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("google/multiberts-seed_1-step_20k", "google/multiberts-seed_1-step_20k", None),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_no_path_is_a_hub_id(text: str, target: str, revision: str | None) -> None:
    ref = CheckpointRef.parse(text)
    assert (ref.kind, ref.target, ref.revision) == ("hub", target, revision)


@pytest.mark.parametrize(
    "text",
    ["./nothing", "../nothing", "/nothing", "~/nothing", "a\\b", "x.gguf", "a/b/c", "out/", "C:x"],
)
@pytest.mark.usefixtures("here")
def test_a_path_that_does_not_exist_is_named(text: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder or file"):
        CheckpointRef.parse(text)


def test_a_revision_on_a_folder_is_explained(here: Path) -> None:
    (here / "model").mkdir()
    with pytest.raises(CheckpointError, match="only be given for a Hub id"):
        CheckpointRef.parse("./model@main")


@pytest.mark.parametrize("text", ["", "  ", "\t"])
def test_an_empty_reference_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="is empty"):
        CheckpointRef.parse(text)


def test_control_characters_are_refused_and_escaped() -> None:
    with pytest.raises(CheckpointError, match="control characters") as caught:
        CheckpointRef.parse("model\x1b[31m\n")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", ["a b", "näme", "-name", "a--b", "org/", "name@", "name@a b", "name@a..b", "a" * 97]
)
@pytest.mark.usefixtures("here")
def test_an_impossible_hub_id_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        CheckpointRef.parse(text)


def test_a_name_too_long_for_the_file_system_is_refused() -> None:
    with pytest.raises(CheckpointError):
        CheckpointRef.parse("x" * 5000)


def test_a_single_weights_file_is_refused_with_advice(here: Path) -> None:
    (here / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="give the folder"):
        CheckpointRef.parse("model.safetensors")


def test_files_in_packages_are_found_without_importing_them(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(here, monkeypatch)
    ref = CheckpointRef.parse("pkg:packed_model/model.gguf")
    assert (ref.kind, ref.target) == ("package", str(package / "model.gguf"))
    assert CheckpointRef.parse("pkg:packed_model").target == str(package)
    inner = CheckpointRef.parse("pkg:packed_model.inner/weights")
    assert inner.target == str(package / "inner" / "weights")
    assert "packed_model" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pkg:not_installed_at_all/x", "not installed"),
        ("pkg:packed_model/nothing", "contains no 'nothing'"),
        ("pkg:packed_model/../secret", "outside the package"),
        ("pkg:packed_model//etc", "outside the package"),
        ("pkg:packed_model/notes.txt", "single file"),
        ("pkg:packed_model.other/x", "not installed"),
        ("pkg:single_module/x", "not a package"),
        ("pkg:/x", "names no package"),
        ("pkg:", "names no package"),
        ("pkg:__main__/x", "not"),
    ],
)
def test_a_wrong_package_reference_is_explained(
    text: str, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_package(here, monkeypatch)
    with pytest.raises(CheckpointError, match=message):
        CheckpointRef.parse(text)


def test_labels_are_short_and_safe(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(here, monkeypatch)
    (here / "my model [v2]").mkdir()
    (here / "file.Q4_1.gguf").write_bytes(b"GGUF")
    (here / "...").mkdir()
    labels = [
        CheckpointRef.parse(text).label
        for text in (
            "org/name@v1",
            "./my model [v2]",
            "file.Q4_1.gguf",
            "pkg:packed_model/model.gguf",
            "./...",
        )
    ]
    assert labels == ["name", "my-model-v2", "file.Q4_1", "model", "checkpoint"]


def test_colliding_labels_become_unique(here: Path) -> None:
    for path in ("a/run/checkpoint-9000", "b/run/checkpoint-9000", "b/other"):
        (here / path).mkdir(parents=True)
    assert unique_labels(["a/run/checkpoint-9000", "./b/other"]) == ["checkpoint-9000", "other"]
    labels = unique_labels(["a/run/checkpoint-9000", "b/run/checkpoint-9000", "b/other"])
    assert labels == ["a-run-checkpoint-9000", "b-run-checkpoint-9000", "other"]


@pytest.mark.usefixtures("here")
def test_colliding_hub_ids_become_unique() -> None:
    assert unique_labels(["x/bert", "y/bert"]) == ["x-bert", "y-bert"]
    assert unique_labels(["x/bert@v1", "x/bert@v2"]) == ["bert-v1", "bert-v2"]
    assert unique_labels(["x/bert", "x/bert"]) == ["x-bert", "x-bert-2"]


@pytest.mark.usefixtures("here")
def test_a_lengthened_label_never_meets_another() -> None:
    labels = unique_labels(["x/bert", "y/bert", "x-bert", "z/bert-2", "x-bert"])
    assert len(set(labels)) == 5


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from robustness.checkpoint.reference import CheckpointRef; "
        "import robustness.checkpoint.checkpoint; "
        "CheckpointRef.parse('org/name'); "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
