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
    [
        "./nothing",
        "../nothing",
        "/nothing",
        "~/nothing",
        "~nobody/nothing",
        "a\\b",
        "C:\\m\\x",
        "x.gguf",
        "out/x.gguf",
        "out/x.GGUF",
        "out/",
        "./org/name/",
        "C:x",
        "C:/x",
        "./a/b@c",
        "a//b",
        "a/../b/c",
        "org/name/model.safetensors",
    ],
)
@pytest.mark.usefixtures("here")
def test_a_path_that_does_not_exist_is_named(text: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder or file"):
        CheckpointRef.parse(text)


def test_a_revision_on_a_folder_is_explained(here: Path) -> None:
    (here / "model").mkdir()
    with pytest.raises(CheckpointError, match="only be given for a Hub id"):
        CheckpointRef.parse("./model@main")


def test_below_an_existing_folder_is_no_hub_model(here: Path) -> None:
    (here / "out" / "run").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no such folder or file as 'out/run/checkpoint-5'"):
        CheckpointRef.parse("out/run/checkpoint-5")


@pytest.mark.parametrize(
    ("text", "inside", "quantisation", "revision", "label"),
    [
        ("org/name/sub", "sub", None, None, "sub"),
        ("org/name/sub/er@v1", "sub/er", None, "v1", "er"),
        ("org/name/file.Q4_1.gguf", "file.Q4_1.gguf", None, None, "file.Q4_1"),
        ("org/name/sub/file.GGUF@refs/pr/1", "sub/file.GGUF", None, "refs/pr/1", "file"),
        ("org/name:Q4_K_M", None, "Q4_K_M", None, "name-Q4_K_M"),
        ("org/name/sub:Q4_K_M@main", "sub", "Q4_K_M", "main", "sub-Q4_K_M"),
        ("org/name/two words", "two words", None, None, "two-words"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_part_of_a_repository(
    text: str, inside: str | None, quantisation: str | None, revision: str | None, label: str
) -> None:
    ref = CheckpointRef.parse(text)
    assert (ref.kind, ref.target) == ("hub", "org/name")
    assert (ref.inside, ref.quantisation, ref.revision) == (inside, quantisation, revision)
    assert ref.is_gguf == ("gguf" in text.lower() or quantisation is not None)
    assert ref.label == label


@pytest.mark.parametrize("text", ["", "  ", "\t"])
def test_an_empty_reference_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="is empty"):
        CheckpointRef.parse(text)


def test_control_characters_are_refused_and_escaped() -> None:
    with pytest.raises(CheckpointError, match="control characters") as caught:
        CheckpointRef.parse("model\x1b[31m\n")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "näme",
        "-name",
        "a--b",
        "org/",
        "name@",
        "name@a b",
        "name@a..b",
        "a" * 97,
        "a/b:",
        "a/b:c d",
    ],
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
    assert unique_labels(["x/bert/fp16", "y/fp16"]) == ["bert-fp16", "y-fp16"]
    assert unique_labels(["x/g:Q4_K", "x/g:Q8_0", "x/g/m.gguf"]) == ["g-Q4_K", "g-Q8_0", "m"]
    assert len(set(unique_labels(["x/g/a-b", "x/g/a b", "x/g/a b@v"]))) == 3
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
