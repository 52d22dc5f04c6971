"""Baselines as a user or a CI job meets them: saved by one run, compared with by another."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from robustness.errors import BaselineError
from robustness.policy.policy import Policy
from robustness.reference.baseline import CheckpointBaseline, read_baseline, write_baseline
from robustness.run.baseline_run import baseline_of, conditions, with_baseline
from robustness.run.plan import RunPlan
from robustness.run.planning import make_plan
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    OTHER_DIM,
    SUITE,
    Run,
    Stubs,
    checks,
    error_sentence,
    run_pytest,
    run_suite,
    slowly_with_workers,
    text_of,
)
from tests.support.records.profiles import profile

PREFIX = f"robustness/test_baseline.py::test_matches_baseline[{LABEL}-"
OUTLIERS, PERPLEXITY, SINGLE = (f"{PREFIX}{p}]" for p in ("outliers", "perplexity", f"dim{DIM}"))


@pytest.fixture(scope="module")
def saved(stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile of the stub with outlier dimension 7."""
    folder = tmp_path_factory.mktemp("saved")
    run = run_suite(folder, *stubs.options, "--robustness-save-baseline=base.json")
    assert run.result.ret == 0
    run.result.stdout.fnmatch_lines(["robustness: baseline of 1 checkpoint saved in base.json"])
    return folder / "base.json"


def planned(stubs: Stubs, **options: object) -> RunPlan:
    policy = Policy(options={"corpus": str(stubs.corpus), **options})
    return make_plan([str(stubs.model)], policy, Context(root=stubs.store))


def vetting_of(plan: RunPlan) -> Vetting:
    (only,) = plan.checkpoints
    return Vetting(
        checkpoint=only.load(),
        settings=only.settings,
        model_profile=only.model_profile,
        baseline=only.baseline,
        context=Context(root=plan.store_root),
    )


def test_a_profile_holds_what_was_measured_with_where_it_came_from(
    saved: Path, stubs: Stubs
) -> None:
    (entry,) = read_baseline(saved).checkpoints
    vetting = vetting_of(planned(stubs))
    assert (entry.label, entry.dims, entry.architecture) == (LABEL, (DIM,), "BertForMaskedLM")
    assert entry.revision == vetting.checkpoint.revision
    assert entry.provenance["weights"] == vetting.checkpoint.weights_hash
    assert entry.provenance.keys() >= {"tokenizer", "versions", "device", "config"}
    assert entry.conditions.keys() >= {"corpus", "scoring", "dtype", "block_size", "seed", "rule"}
    verdict = vetting.ablate(DIM).degrades(by=1.05)
    intact = vetting.intact().beats_uniform_guess().details.intact
    assert intact is not None
    assert entry.perplexity == pytest.approx(intact.perplexity, rel=0.2)
    assert math.exp(entry.delta_nll(f"dim{DIM}")[:32].sum() / sum(entry.tokens[:32])) == (
        pytest.approx(verdict.measured, rel=1e-9)
    )


def test_a_profile_is_made_without_the_model(
    saved: Path, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    plan = planned(stubs)
    monkeypatch.setattr("robustness.checkpoint.checkpoint.Checkpoint.load_model", refuse)
    monkeypatch.setattr("robustness.checkpoint.checkpoint.Checkpoint.load_tokenizer", refuse)
    again = baseline_of(plan).checkpoints[0]
    assert replace(again) == read_baseline(saved).checkpoints[0]


@slowly_with_workers
def test_a_checkpoint_matches_its_own_profile(
    state: tuple[str, ...], saved: Path, stubs: Stubs, tmp_path: Path
) -> None:
    before = saved.read_bytes()
    run = run_suite(tmp_path, *stubs.options, f"--robustness-baseline={saved}", *state)
    assert run.result.ret == 0
    assert run.verdicts == dict.fromkeys({*SUITE, OUTLIERS, PERPLEXITY, SINGLE}, "pass")
    assert run.facts["comparisons"] == 7
    assert run.facts["baseline"] == str(saved)
    (checkpoint,) = run.facts["checkpoints"]
    assert checkpoint["baseline"]["label"] == LABEL
    assert checkpoint["baseline"]["dims"] == [DIM]
    assert checks(run.facts)[PERPLEXITY]["measured"] == 1.0
    run.result.stdout.fnmatch_lines([f"  baseline: *{LABEL}*", "matches baseline *1 *< 1.05 *pass"])
    properties = run.properties[f"test_matches_baseline[{LABEL}-dim{DIM}]"]
    assert (properties["verdict"], float(properties["measured"])) == ("pass", 1.0)
    assert saved.read_bytes() == before


@pytest.fixture(scope="module")
def other(saved: Path, stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The stub with dimension 11 against the profile of the one with dimension 7."""
    folder = tmp_path_factory.mktemp("other")
    options = (f"--robustness-baseline={saved}", "--robustness-save-baseline=new.json")
    return run_suite(folder, f"--model={stubs.other}", *stubs.surroundings, *options)


def test_another_revision_with_other_outliers_does_not_match(other: Run, saved: Path) -> None:
    assert other.result.ret == 1
    failed = {OUTLIERS: "fail", PERPLEXITY: "pass", SINGLE: "fail"}
    assert {k: v for k, v in other.verdicts.items() if k.startswith(PREFIX)} == failed
    found = checks(other.facts)
    assert found[OUTLIERS]["details"]["outliers"]["appeared"] == [OTHER_DIM]
    assert found[OUTLIERS]["details"]["outliers"]["vanished"] == [DIM]
    entry = read_baseline(saved).checkpoints[0]
    n = found[SINGLE]["seen"]
    then = math.exp(entry.delta_nll(f"dim{DIM}")[:n].sum() / sum(entry.tokens[:n]))
    assert found[SINGLE]["details"]["baseline"]["then"] == pytest.approx(then, rel=1e-9)
    assert found[SINGLE]["measured"] == pytest.approx(
        found[SINGLE]["details"]["baseline"]["now"] / then, rel=1e-9
    )
    hint = next(line for line in other.result.outlines if line.startswith("again: "))
    assert f"--robustness-baseline={saved}" in hint
    assert "save-baseline" not in hint


WRITING = """
import os
from pathlib import Path

from robustness.reference import baseline


def write_baseline(*args, original=baseline.write_baseline):
    with Path("writers").open("a") as stream:
        stream.write(os.environ.get("PYTEST_XDIST_WORKER", "controller") + "\\n")
    return original(*args)


baseline.write_baseline = write_baseline
"""


@slowly_with_workers
def test_only_the_controller_writes_a_baseline_and_only_once(
    state: tuple[str, ...], saved: Path, stubs: Stubs, tmp_path: Path
) -> None:
    (tmp_path / "writing.py").write_text(WRITING)
    save = "--robustness-save-baseline=base.json"
    run = run_suite(tmp_path, *stubs.options, *state, "-p", "writing", save)
    assert run.result.ret == 0
    assert (tmp_path / "writers").read_text().split() == ["controller"]
    assert read_baseline(tmp_path / "base.json").checkpoints == read_baseline(saved).checkpoints


def test_a_run_that_fails_saves_no_baseline(other: Run) -> None:
    assert not (other.folder / "new.json").exists()
    other.result.stdout.fnmatch_lines(["robustness: no baseline was saved*"])


def test_a_partial_run_saves_no_baseline_and_fails(stubs: Stubs, tmp_path: Path) -> None:
    options = ("-k", "outliers_are_present", "--robustness-save-baseline=base.json")
    run = run_suite(tmp_path, *stubs.options, *options)
    assert run.result.ret == 1
    assert "a baseline is of a whole run" in run.facts["problems"][0]
    assert not (tmp_path / "base.json").exists()


def test_one_file_cannot_be_both(saved: Path, stubs: Stubs) -> None:
    before = saved.read_bytes()
    options = ("--robustness-baseline=base.json", f"--robustness-save-baseline={saved}")
    result = run_pytest(saved.parent, *stubs.options, *options)
    assert "both name base.json" in error_sentence(result)
    assert saved.read_bytes() == before


def test_what_is_measured_otherwise_is_refused_before_the_run(
    saved: Path, stubs: Stubs, tmp_path: Path
) -> None:
    options = (f"--robustness-baseline={saved}", "--robustness-seed=1")
    result = run_pytest(tmp_path, *stubs.options, *options)
    assert "it was measured with another seed (0, here 1)" in error_sentence(result)
    assert "Traceback" not in text_of(result)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"block_size": 64}, "another block size (128, here 64)"),
        ({"corpus": "builtin"}, "another corpus (corpus.txt"),
        ({"rules": {"busters": {"k": 2.5}}}, "another rule"),
    ],
    ids=["block size", "corpus", "rule"],
)
def test_other_conditions_are_named(
    options: dict[str, object], named: str, saved: Path, stubs: Stubs
) -> None:
    with pytest.raises(BaselineError) as caught:
        with_baseline(planned(stubs, **options), read_baseline(saved), saved)
    assert named in str(caught.value)


def test_a_baseline_may_be_of_a_model_with_another_name_if_both_are_alone(
    saved: Path, stubs: Stubs
) -> None:
    found = read_baseline(saved)
    renamed = profile(replace(found.checkpoints[0], label="release-1"))
    plan = with_baseline(planned(stubs), renamed, saved)
    assert plan.comparisons == 7
    assert RunPlan.from_json(plan.to_json()) == plan


def test_a_check_that_is_switched_off_needs_no_baseline(saved: Path, stubs: Stubs) -> None:
    off = planned(stubs, seed=5, checks={"matches_baseline": {"enabled": False}})
    assert with_baseline(off, read_baseline(saved), saved).checkpoints == off.checkpoints


def planted(stubs: Stubs, saved: Path, times: float, held: int) -> Vetting:
    """Against a profile whose perplexity was planted, with the first text blocks only."""
    entry = read_baseline(saved).checkpoints[0]
    nll = [x - t * math.log(times) for x, t in zip(entry.nll_nats, entry.tokens, strict=True)]
    ablations = tuple(replace(a, nll_nats=a.nll_nats[:held]) for a in entry.ablations)
    changed: CheckpointBaseline = replace(
        entry, nll_nats=tuple(nll[:held]), tokens=entry.tokens[:held], ablations=ablations
    )
    return vetting_of(with_baseline(planned(stubs), profile(changed), saved))


def test_perplexity_is_decided_at_the_end_of_what_a_profile_holds(
    saved: Path, stubs: Stubs
) -> None:
    for times, passes in ((1.049, True), (1.051, False), (0.5, True)):
        vetting = planted(stubs, saved, times, held=48)
        verdict = vetting.baseline.keeps_perplexity(within=1.05)
        assert bool(verdict) is passes
        assert verdict.measured == pytest.approx(times, rel=1e-9)
    short = planted(stubs, saved, 1.0, held=16).baseline.keeps_degradation(f"dim{DIM}", within=1.5)
    assert (short.exact, short.seen, bool(short)) == (True, 16, True)


def test_a_run_without_a_baseline_says_how_to_get_one(stubs: Stubs) -> None:
    with pytest.raises(BaselineError, match="--robustness-baseline=FILE"):
        _ = vetting_of(planned(stubs)).baseline


def test_a_store_that_cannot_be_written_is_refused_before_the_run(
    stubs: Stubs, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    options = (
        f"--robustness-store={tmp_path / 'file' / 'store'}",
        "--robustness-save-baseline=base.json",
    )
    result = run_pytest(tmp_path, *stubs.options, *options)
    assert "numbers in the store, which cannot be written" in error_sentence(result)


def test_conditions_are_what_numbers_depend_on_and_not_whose_they_are(stubs: Stubs) -> None:
    found = conditions(vetting_of(planned(stubs)))
    assert json.loads(json.dumps(found)) == found
    assert not {"weights", "tokenizer", "versions"} & found.keys()


def test_a_written_profile_is_read_whole(saved: Path, tmp_path: Path) -> None:
    write_baseline(read_baseline(saved), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == saved.read_bytes()
