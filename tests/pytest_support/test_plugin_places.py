"""Files and folders that the options name: said where made, refused where of no use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import robustness
from tests.support.plugin.plugin_support import Stubs, error_sentence, run_pytest, run_python

STATES = {"workers": ("-n", "2"), "idle": (), "without xdist": ("-p", "no:xdist")}


@pytest.mark.parametrize("state", STATES)
def test_a_folder_that_a_report_needs_is_made_and_said(
    state: str, stubs: Stubs, tmp_path: Path
) -> None:
    if state == "workers":
        pytest.importorskip("xdist", reason="needs pytest-xdist")
    result = run_pytest(
        tmp_path, *stubs.options, "-k", "outliers_are_present", "--robustness-json=new/deep/a.json",
        "--robustness-markdown=new/b.md", "--robustness-html=here.html", *STATES[state],
    )  # fmt: skip
    made = [line for line in result.outlines if "made the folder" in line]
    assert len(made) == 1
    assert str(tmp_path / "new") in made[0]
    files = ("new/deep/a.json", "new/b.md", "here.html")
    assert all((tmp_path / file).is_file() for file in files)


def test_every_option_that_reaches_other_plugins_is_plain(stubs: Stubs, tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(
        "def test_plain(pytestconfig):\n"
        "    ours = {k: v for k, v in vars(pytestconfig.option).items() if 'robustness' in k}\n"
        "    assert len(ours) > 20\n"
        "    for value in ours.values():\n"
        "        each = value if type(value) is list else [value]\n"
        "        assert {type(one) for one in each} <= {str, int, float, bool, type(None)}\n"
    )
    files = [f"--robustness-{name}=x" for name in ("json", "html", "markdown", "save-baseline")]
    result = run_pytest(tmp_path, "test_one.py", f"--robustness-store={stubs.store}", *files)
    assert result.ret == 0


def test_watching_test_files_is_refused(stubs: Stubs, tmp_path: Path) -> None:
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    assert "-f (--looponfail)" in error_sentence(run_pytest(tmp_path, *stubs.options, "-f"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions as POSIX has them")
@pytest.mark.parametrize(
    "state",
    [state if state == "idle" else pytest.param(state, marks=pytest.mark.slow) for state in STATES],
)
def test_a_home_that_may_not_be_looked_into_costs_only_the_store(
    state: str, stubs: Stubs, tmp_path: Path
) -> None:
    obeying = []
    if os.geteuid() == 0:  # root obeys permissions only without these capabilities
        if not (setpriv := shutil.which("setpriv")):
            pytest.skip("needs setpriv (util-linux) where tests run as root")
        obeying = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    home, place = tmp_path / "home", tmp_path / "place"
    home.mkdir(mode=0)
    place.mkdir()
    left_out = ("PYTEST_", "XDG_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
    result = subprocess.run(
        [
            *obeying, sys.executable, "-m", "pytest", "-k", "finite", "-p", "no:cacheprovider",
            f"--model={stubs.model}", f"--robustness-corpus={stubs.corpus}", *STATES[state],
        ],
        cwd=place,
        env={**kept, "HOME": str(home), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "weights are finite" in result.stdout


@pytest.fixture
def namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPI's package ``robustness``, installed over ours: its ``__init__.py`` replaced our own."""
    merged = tmp_path / "merged" / "robustness"
    merged.mkdir(parents=True)
    for each in Path(robustness.__file__).parent.iterdir():
        if each.name not in ("__init__.py", "__pycache__"):
            (merged / each.name).symlink_to(each)
    (merged / "__init__.py").write_text('name = "robustness"\n')
    metadata = tmp_path / "merged" / "robustness-1.2.1.post2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: robustness\nVersion: 1.2.1.post2\n"
    )
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "merged"), path]))


@pytest.mark.usefixtures("namesake")
def test_a_package_of_the_same_name_is_named(stubs: Stubs, tmp_path: Path) -> None:
    place = tmp_path / "place"
    refused = run_python(place, "-m", "pytest", *stubs.options)
    assert "package 'robustness' 1.2.1.post2 from PyPI" in error_sentence(refused)
    (place / "test_other.py").write_text("def test_other(): pass\n")
    assert run_python(place, "-m", "pytest").ret == 0
    command = run_python(place, "-m", "robustness", "scan", str(stubs.model))
    assert command.ret == 2
    (sentence,) = command.errlines
    assert "uninstall both, then install pytest-robustness alone" in sentence
