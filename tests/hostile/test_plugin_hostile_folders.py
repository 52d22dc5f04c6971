"""Code in a checkpoint's folder is never run by pytest."""

from pathlib import Path

import pytest

from tests.support.plugin.plugin_support import (
    Stubs,
    error_sentence,
    run_pytest,
    slowly_with_workers,
    with_and_without_workers,
)


@pytest.fixture
def hostile(stubs: Stubs, pytester: pytest.Pytester) -> Path:
    """A checkpoint with files that pytest would run; each would leave a mark."""
    import shutil

    folder = pytester.path / "downloads" / "hostile"
    shutil.copytree(stubs.model, folder)
    mark = f"open({str(pytester.path / 'executed')!r}, 'a').write(__name__)\n"
    (folder / "conftest.py").write_text(mark)
    (folder / "test_evil.py").write_text(f"{mark}def test_evil(): pass\n")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --collect-only\n")
    return folder


def _nothing_was_executed(pytester: pytest.Pytester) -> bool:
    return not (pytester.path / "executed").exists()


@slowly_with_workers
def test_code_in_a_checkpoint_is_never_run(
    state: tuple[str, ...], hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    result = pytester.runpytest_subprocess(f"--model={hostile}", *stubs.surroundings, *state)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=6)
    assert _nothing_was_executed(pytester)


def test_collecting_beside_a_checkpoint_leaves_it_out(
    hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    (hostile / "pytest.ini").unlink()
    (hostile.parent / "test_good.py").write_text("def test_good(vetting): assert vetting\n")
    result = pytester.runpytest_subprocess(f"--model={hostile}", *stubs.surroundings, ".")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1)
    assert _nothing_was_executed(pytester)


def test_a_checkpoint_folder_with_the_name_of_a_test_folder_is_not_imported_from(
    hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    """pytest imports ``test*/conftest.py`` below the folder it is started in."""
    folder = hostile.rename(pytester.path / "testing-7b")
    result = pytester.runpytest_subprocess(f"--model={folder}", *stubs.surroundings)
    assert "conftest.py" in error_sentence(result)
    assert _nothing_was_executed(pytester)


@with_and_without_workers
@pytest.mark.smoke
def test_a_space_instead_of_the_equals_sign_is_refused(
    state: tuple[str, ...], hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    result = pytester.runpytest_subprocess("--model", str(hostile), *stubs.surroundings, *state)
    sentence = error_sentence(result)
    assert "with the equals sign" in sentence
    assert f"--model={hostile}" in sentence
    assert _nothing_was_executed(pytester)


def test_a_space_is_refused_without_an_ini_file_too(
    hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    (hostile / "pytest.ini").unlink()
    result = pytester.runpytest_subprocess(*stubs.surroundings, "--model", str(hostile))
    assert "with the equals sign" in error_sentence(result)
    assert _nothing_was_executed(pytester)


@pytest.mark.parametrize("ini", [True, False], ids=["ini file", "no ini file"])
def test_running_inside_a_checkpoint_is_refused(
    ini: bool, hostile: Path, pytester: pytest.Pytester, stubs: Stubs
) -> None:
    if not ini:
        (hostile / "pytest.ini").unlink()
    pytester.path.joinpath("elsewhere").mkdir()
    result = run_pytest(hostile, "--model=.", *stubs.surroundings)
    assert "run from another folder" in error_sentence(result)
    assert _nothing_was_executed(pytester)
