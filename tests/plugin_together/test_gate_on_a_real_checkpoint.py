"""Shards, merge, baselines and diff on a real checkpoint, as a release job would use them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from robustness.cli.app import app
from tests.support.checkpoints.shared import shared_data, shared_model
from tests.support.plugin.plugin_support import checks, read_json, run_suite, verdicts

pytestmark = pytest.mark.slow

NAME = "sapiens-roberta-vl"
DIM = 112
"""One of its two outlier dimensions."""

HARDENED = (
    "--robustness-expectation=hardened",  # its outlier dimensions do little harm
    "--robustness-policy=policy.toml",
    "--robustness-exhaustive",
)
POLICY = "[checks.joint_ablation_degrades]\nmax_ratio = 1.5\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small corpus: 64 antibody light chains."""
    found = tmp_path_factory.mktemp("gate")
    chains = shared_data("antibody-light.fa").read_text().split("\n>")[:64]
    (found / "light.fa").write_text("\n>".join(chains) + "\n")
    return found


def vetted(folder: Path, root: Path, *more: str, model: Path | None = None) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.toml").write_text(POLICY)
    run = run_suite(
        folder,
        f"--model={model or shared_model(NAME)}",
        f"--robustness-corpus={root / 'light.fa'}",
        *more,
    )
    assert run.result.ret in (0, 1)
    return {**run.facts, "status": run.result.ret}


def test_three_shards_without_a_common_store_are_the_whole_run(root: Path, tmp_path: Path) -> None:
    whole = vetted(tmp_path / "whole", root, "--robustness-store=store")
    for index in (1, 2, 3):
        part = vetted(
            tmp_path / str(index), root, "--robustness-store=store", f"--robustness-shard={index}/3"
        )
        assert part["alpha"] == whole["alpha"]
        assert 0 < len(verdicts(part)) < len(verdicts(whole))
    files = [str(tmp_path / str(index) / "report.json") for index in (3, 1, 2)]
    result = CliRunner().invoke(app, ["merge", *files, f"--json={tmp_path / 'all.json'}"])
    merged = read_json(tmp_path / "all.json")
    assert result.exit_code == whole["status"] == 1  # ablating them degrades too little
    assert verdicts(merged) == verdicts(whole)
    assert set(verdicts(whole).values()) == {"pass", "fail"}
    measured = 0
    for name, check in checks(merged).items():
        other = checks(whole)[name]
        for key in ("seen", "unit", "tokens", "exact", "dims", "threshold"):
            assert check[key] == other[key], name
        if other["measured"] is not None:
            assert check["measured"] == pytest.approx(other["measured"], rel=1e-5)
            measured += 1
    assert measured == 6
    (one,), (two,) = merged["checkpoints"], whole["checkpoints"]
    assert one["intact"]["perplexity"] == pytest.approx(two["intact"]["perplexity"], rel=1e-5)
    assert one["outliers"] == two["outliers"]


def halved(source: Path, folder: Path, *parameters: str) -> Path:
    """A copy in which these parameters of one outlier dimension are halved in every layer."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name)
    tensors = load_file(source / "model.safetensors")
    norms = [n for n in tensors if ".output.LayerNorm." in n and ".attention." not in n]
    ours = [name for name in norms if name.endswith(parameters)]
    assert len(ours) == 4 * len(parameters)
    for name in ours:
        tensors[name][DIM] *= 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def baseline(root: Path) -> Path:
    """The profile of the checkpoint, which agrees with itself."""
    file = root / "then.json"
    options = (*HARDENED, f"--robustness-store={root / 'store'}")
    saved = vetted(root / "then", root, *options, f"--robustness-save-baseline={file}")
    assert saved["passed"]
    same = vetted(root / "same", root, *options, f"--robustness-baseline={file}")
    assert same["passed"]
    assert len(verdicts(same)) > len(verdicts(saved))
    return file


@pytest.mark.parametrize(
    ("parameters", "regressed"),
    [
        pytest.param(("weight", "bias"), True, id="no outlier any more"),
        # Its scale is now far below the others, and perplexity 1.004 times as high.
        pytest.param(("weight",), False, id="still an outlier"),
    ],
)
def test_a_perturbed_copy_is_held_against_the_baseline(
    parameters: tuple[str, ...], regressed: bool, baseline: Path, root: Path, tmp_path: Path
) -> None:
    copy, now = halved(shared_model(NAME), tmp_path / NAME, *parameters), tmp_path / "now.json"
    options = (*HARDENED, f"--robustness-store={root / 'store'}")
    gated = vetted(
        tmp_path / "gate", root, *options, f"--robustness-baseline={baseline}", model=copy
    )
    assert gated["passed"] != regressed
    failed = [name.partition("::")[2] for name, v in verdicts(gated).items() if v == "fail"]
    assert all("_kept[" in name for name in failed)
    assert (f"test_outliers_are_kept[{NAME}-outliers]" in failed) == regressed
    vetted(tmp_path / "save", root, *options, f"--robustness-save-baseline={now}", model=copy)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["diff", str(baseline), str(now)])
    assert result.exit_code == int(regressed), result.output
    (row,) = [line for line in result.stdout.splitlines() if " outliers " in line]
    assert (" fail " in row) == regressed
