"""References as a user or a CI job meets them: another checkpoint, or the profile of a run."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustness.errors import BaselineError
from robustness.policy.policy import Policy
from robustness.reference.baseline import CheckpointBaseline, read_baseline, write_baseline
from robustness.run.plan import RunPlan
from robustness.run.planning import Against, make_plan
from robustness.run.reference_run import SavedProfiles, baseline_of, conditions
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import edit_tensors
from tests.support.plugin.plugin_support import (
    DIM,
    HIDDEN_SIZE,
    LABEL,
    OTHER_DIM,
    SUITE,
    Run,
    Stubs,
    checks,
    error_sentence,
    in_every_state,
    run_pytest,
    run_suite,
    slowly_with_workers,
    text_of,
)
from tests.support.records.profiles import profile

FILE = "robustness/test_reference.py::test_"
FINITE = f"robustness/test_weights.py::test_weights_are_finite[{LABEL}]"
PERPLEXITY, PREDICTIONS, DISTRIBUTIONS = (
    f"{FILE}{name}_kept[{LABEL}]"
    for name in ("perplexity_is", "predictions_are", "distributions_are")
)
OUTLIERS, EFFECT = (
    f"{FILE}outliers_are_kept[{LABEL}-{part}]" for part in ("outliers", f"dim{DIM}")
)
REGRESSION = {FINITE, PERPLEXITY, PREDICTIONS, DISTRIBUTIONS, OUTLIERS, EFFECT}


@pytest.fixture(scope="module")
def saved(stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile of the stub with outlier dimension 7."""
    folder = tmp_path_factory.mktemp("saved")
    run = run_suite(folder, *stubs.options, "--robustness-save-baseline=base.json")
    assert run.result.ret == 0
    run.result.stdout.fnmatch_lines(["robustness: profile of 1 checkpoint saved in base.json"])
    return folder / "base.json"


@pytest.fixture(scope="module")
def noisy(stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Copies of the stub with noise on every weight, relative to its own size."""

    def made(share: float) -> Path:
        folder = tmp_path_factory.mktemp("noisy") / LABEL
        shutil.copytree(stubs.model, folder)
        generator = np.random.default_rng(0)

        def noise(tensors: dict[str, Any]) -> None:
            for name, tensor in tensors.items():
                tensors[name] = tensor * (1 + share * generator.standard_normal(tensor.shape))

        edit_tensors(folder, noise)
        return folder

    return made


def planned(stubs: Stubs, against: Against | None = None, **options: object) -> RunPlan:
    policy = Policy(options={"corpus": str(stubs.corpus), **options})
    return make_plan([str(stubs.model)], policy, Context(root=stubs.store), against=against)


def profiles(file: Path) -> SavedProfiles:
    return SavedProfiles(baseline=read_baseline(file), source=file)


def vetting_of(plan: RunPlan) -> Vetting:
    (only,) = plan.checkpoints
    return only.vetting(Context(root=plan.store_root))


# --- another checkpoint --------------------------------------------------------------------------


@in_every_state
def test_a_candidate_is_held_against_its_reference(
    state: tuple[str, ...], noisy: Callable[[float], Path], stubs: Stubs, tmp_path: Path
) -> None:
    """A little noise passes; the paper's claims are not asked for."""
    candidate = noisy(0.001)
    options = (f"--model={candidate}", *stubs.surroundings, f"--reference={stubs.model}", *state)
    run = run_suite(tmp_path, *options)
    assert run.result.ret == 0
    assert run.verdicts == dict.fromkeys(REGRESSION, "pass")
    assert run.facts["comparisons"] == 6
    assert run.facts["compared_with"] == str(stubs.model)
    (checkpoint,) = run.facts["checkpoints"]
    assert checkpoint["expectation"] == "regression"
    assert checkpoint["compared_with"]["saved"] is False
    assert checkpoint["compared_with"]["dims"] == [DIM]
    found = checks(run.facts)
    assert found[PERPLEXITY]["measured"] == pytest.approx(1, abs=0.01)
    assert 0 < found[DISTRIBUTIONS]["measured"] < 0.005
    run.result.stdout.fnmatch_lines([f"  reference: {stubs.model}*"])


def test_a_damaged_candidate_fails(stubs: Stubs, tmp_path: Path) -> None:
    """With another outlier dimension it is another model, though as good a one."""
    options = (f"--model={stubs.other}", *stubs.surroundings)
    run = run_suite(tmp_path, *options, f"--robustness-reference={stubs.model}")
    assert run.result.ret == 1
    found = checks(run.facts)
    assert found[OUTLIERS]["details"]["outliers"]["appeared"] == [OTHER_DIM]
    assert found[OUTLIERS]["details"]["outliers"]["vanished"] == [DIM]
    assert found[EFFECT]["outcome"] == "fail"
    assert found[EFFECT]["measured"] < 0.5
    figures = found[EFFECT]["details"]["reference"]
    assert figures["now"] / figures["then"] == pytest.approx(found[EFFECT]["measured"], rel=1e-9)
    hint = next(line for line in run.result.outlines if line.startswith("again: "))
    assert f"--robustness-reference={stubs.model}" in hint


def test_several_candidates_have_one_reference(
    noisy: Callable[[float], Path], stubs: Stubs, tmp_path: Path
) -> None:
    models = (f"--model={noisy(0.0005)}", f"--model={stubs.other}", f"--model={stubs.model}")
    options = (*models, *stubs.surroundings, f"--reference={stubs.model}")
    run = run_suite(tmp_path, *options)
    assert run.result.ret == 1
    refused = [
        {check["outcome"] for check in checkpoint["checks"]} - {"pass"}
        for checkpoint in run.facts["checkpoints"]
    ]
    assert refused == [set(), {"fail"}, set()]


def test_a_candidate_that_is_its_reference_is_said_and_not_measured(
    stubs: Stubs, tmp_path: Path
) -> None:
    run = run_suite(tmp_path, *stubs.options, f"--reference={stubs.model}")
    assert run.result.ret == 0
    assert run.verdicts == dict.fromkeys(REGRESSION, "pass")
    found = checks(run.facts)
    assert found[PERPLEXITY]["seen"] == found[DISTRIBUTIONS]["seen"] == found[EFFECT]["seen"] == 0
    assert "the candidate is the reference" in found[PERPLEXITY]["reason"]
    assert any(
        "it is the reference itself" in note for note in run.facts["checkpoints"][0]["notes"]
    )


def test_training_records_predictions_and_distributions(
    noisy: Callable[[float], Path], stubs: Stubs, tmp_path: Path
) -> None:
    options = (f"--model={noisy(0.2)}", *stubs.surroundings, f"--reference={stubs.model}")
    run = run_suite(tmp_path, *options, "--robustness-change=training")
    found = checks(run.facts)
    assert EFFECT not in found
    for recorded in (PREDICTIONS, DISTRIBUTIONS):
        assert found[recorded]["outcome"] == "pass"
        assert found[recorded]["threshold"] is None
        assert "is recorded" in found[recorded]["statement"]
    assert found[DISTRIBUTIONS]["measured"] > 0
    assert found[PERPLEXITY]["threshold"] == 1.01


def test_a_reference_with_another_vocabulary_is_refused_by_the_first_token(
    stubs: Stubs, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(stubs.model, other)
    file = other / "tokenizer.json"
    text = file.read_text()
    swapped = text.replace('"w3"', '"x"').replace('"w4"', '"w3"').replace('"x"', '"w4"')
    file.write_text(swapped)
    result = run_pytest(tmp_path, *stubs.options, f"--reference={other}")
    sentence = error_sentence(result)
    assert "different vocabularies: token 8 is 'w3' here and 'w4' in the reference" in sentence


def test_a_tokenizer_that_cuts_otherwise_is_refused_by_the_first_token(
    stubs: Stubs, tmp_path: Path
) -> None:
    """It reads one word as another."""
    other = tmp_path / "other"
    shutil.copytree(stubs.model, other)
    document = json.loads((other / "tokenizer.json").read_text())
    read = {"type": "Replace", "pattern": {"String": "w0 "}, "content": "w1 "}
    document["normalizer"] = read
    (other / "tokenizer.json").write_text(json.dumps(document))
    result = run_pytest(
        tmp_path, f"--model={other}", *stubs.surroundings, f"--reference={stubs.model}"
    )
    sentence = error_sentence(result)
    assert "their tokenizers cut the text differently: token " in sentence
    assert "of text block 0 is 'w1' here and 'w0' in the reference" in sentence


def test_a_broken_reference_is_refused_before_the_run(stubs: Stubs, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(stubs.model, broken)

    def spoil(tensors: dict[str, Any]) -> None:
        name = next(name for name in tensors if name.endswith("encoder.layer.0.output.dense.bias"))
        tensors[name][0] = float("nan")

    edit_tensors(broken, spoil)
    result = run_pytest(tmp_path, *stubs.options, f"--reference={broken}")
    assert "the reference broken is broken itself" in error_sentence(result)


def test_a_reference_that_overflows_is_not_blamed_on_the_candidate(
    stubs: Stubs, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(stubs.model, broken)

    def spoil(tensors: dict[str, Any]) -> None:
        name = next(n for n in tensors if n.endswith("encoder.layer.0.output.dense.weight"))
        tensors[name] = tensors[name] * np.float32(1e38)

    edit_tensors(broken, spoil)
    run = run_suite(tmp_path, *stubs.options, f"--reference={broken}", "--robustness-fresh")
    assert run.result.ret == 1
    for test in (FINITE, PERPLEXITY, PREDICTIONS, DISTRIBUTIONS):
        assert run.verdicts[test] == "error"
        reason = checks(run.facts)[test]["reason"]
        assert "the reference broken is broken itself: the intact model's" in reason


def test_of_another_hidden_size_dimensions_are_not_compared(stubs: Stubs, tmp_path: Path) -> None:
    from tests.support.checkpoints.checkpoint_folders import (
        save_checkpoint,
        tiny_model,
        tiny_tokenizer,
    )

    wide = tiny_model("BertForMaskedLM", vocab_size=64, hidden_size=48, max_position_embeddings=130)
    folder = save_checkpoint(tmp_path / LABEL, wide, tiny_tokenizer(64))
    options = (f"--model={folder}", *stubs.surroundings, f"--reference={stubs.model}")
    run = run_suite(tmp_path, *options)
    found = checks(run.facts)
    assert found[OUTLIERS]["outcome"] == "not applicable"
    assert found[OUTLIERS]["reason"] == (
        f"hidden states have 48 dimensions here and {HIDDEN_SIZE} in the reference"
    )
    assert found[DISTRIBUTIONS]["measured"] > 0
    assert not run.facts["problems"]


def test_a_reference_may_have_another_format(stubs: Stubs, tmp_path: Path) -> None:
    """What a GGUF file holds is what was written to safetensors, in bfloat16 nearly."""
    import torch

    from robustness.checkpoint.resolving import resolve
    from tests.support.checkpoints.checkpoint_folders import tiny_model
    from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf

    torch.manual_seed(0)
    model = tiny_model("LlamaForCausalLM", vocab_size=len(TOKENS), hidden_size=32)
    reference = write_llama_gguf(tmp_path / "tiny.gguf", model)
    checkpoint = resolve(str(reference), cache=tmp_path / "store")
    for name, dtype in (("same", torch.float32), ("half", torch.bfloat16)):
        folder = tmp_path / name
        checkpoint.load_model().to(dtype).save_pretrained(folder)
        checkpoint.load_tokenizer().save_pretrained(folder)
        policy = Policy(options={"corpus": str(stubs.corpus), "block_size": 32})
        context = Context(root=tmp_path / "store")
        plan = make_plan([str(folder)], policy, context, against=str(reference))
        kept = plan.checkpoints[0].vetting(context).reference
        verdicts = [kept.keeps_perplexity(), kept.keeps_predictions(share=0.5)]
        verdicts.append(kept.keeps_distributions())
        assert all(verdicts)
        assert [verdict.measured for verdict in verdicts] == pytest.approx([1, 0, 0], abs=0.05)
        if name == "same":
            assert [verdict.measured for verdict in verdicts[:2]] == [1.0, 0.0]
            assert verdicts[2].measured == pytest.approx(0, abs=1e-7)
        else:
            assert verdicts[2].measured is not None
            assert verdicts[2].measured > 1e-8


def test_a_wrong_name_of_a_reference_is_one_sentence(stubs: Stubs, tmp_path: Path) -> None:
    result = run_pytest(tmp_path, *stubs.options, "--reference=./gone")
    assert "gone" in error_sentence(result)


# --- a saved profile -----------------------------------------------------------------------------


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
    not_held = {PREDICTIONS: "not applicable", DISTRIBUTIONS: "not applicable"}
    assert run.verdicts == {**dict.fromkeys(REGRESSION, "pass"), **not_held}
    assert run.facts["comparisons"] == 4
    assert run.facts["compared_with"] == str(saved)
    (checkpoint,) = run.facts["checkpoints"]
    assert checkpoint["compared_with"]["label"] == LABEL
    assert checkpoint["compared_with"]["saved"] is True
    assert checks(run.facts)[PERPLEXITY]["measured"] == 1.0
    assert checks(run.facts)[EFFECT]["measured"] == 1.0
    run.result.stdout.fnmatch_lines(
        [f"  reference, saved: *{LABEL}*", "perplexity is kept *1 *< 1.01 *pass"]
    )
    properties = run.properties[f"test_outliers_are_kept[{LABEL}-dim{DIM}]"]
    assert (properties["verdict"], float(properties["measured"])) == ("pass", 1.0)
    assert saved.read_bytes() == before


def test_what_the_paper_claims_can_be_asked_for_beside_it(
    saved: Path, stubs: Stubs, tmp_path: Path
) -> None:
    options = ("--robustness-expectation=paper", f"--reference={saved}")
    run = run_suite(tmp_path, *stubs.options, *options)
    assert run.result.ret == 0
    assert set(run.verdicts) == SUITE | REGRESSION


@pytest.fixture(scope="module")
def other(saved: Path, stubs: Stubs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The stub with dimension 11 against the profile of the one with dimension 7."""
    folder = tmp_path_factory.mktemp("other")
    options = (f"--robustness-baseline={saved}", "--robustness-save-baseline=new.json")
    return run_suite(folder, f"--model={stubs.other}", *stubs.surroundings, *options)


def test_another_revision_with_other_outliers_does_not_match(other: Run, saved: Path) -> None:
    assert other.result.ret == 1
    failed = {name for name, outcome in other.verdicts.items() if outcome == "fail"}
    assert failed == {OUTLIERS, EFFECT}
    found = checks(other.facts)
    assert found[OUTLIERS]["details"]["outliers"]["appeared"] == [OTHER_DIM]
    entry = read_baseline(saved).checkpoints[0]
    n = found[EFFECT]["seen"]
    then = entry.delta_nll(f"dim{DIM}")[:n].sum() / sum(entry.tokens[:n])
    assert found[EFFECT]["details"]["reference"]["then"] == pytest.approx(then, rel=1e-9)
    hint = next(line for line in other.result.outlines if line.startswith("again: "))
    assert f"--robustness-baseline={saved}" in hint
    assert "save-baseline" not in hint


def test_a_profile_says_in_itself_what_did_not_hold(
    other: Run, stubs: Stubs, tmp_path: Path
) -> None:
    other.result.stdout.fnmatch_lines(
        ["robustness: profile of 1 checkpoint saved*", "robustness: it says that 2 checks did not*"]
    )
    new = other.folder / "new.json"
    assert read_baseline(new).checkpoints[0].failed == ("outliers_are_kept",)
    options = (f"--model={stubs.other}", *stubs.surroundings, f"--reference={new}")
    run = run_suite(tmp_path, *options)
    (checkpoint,) = run.facts["checkpoints"]
    assert checkpoint["compared_with"]["failed"] == ["outliers_are_kept"]
    assert checkpoint["notes"][0] == (
        "what its reference was saved of did not pass everything: outliers are kept"
    )


def test_a_profile_of_what_was_broken_is_no_reference(saved: Path, stubs: Stubs) -> None:
    found = read_baseline(saved).checkpoints[0]
    broken = profile(replace(found, failed=("weights_are_finite",)))
    with pytest.raises(BaselineError, match=r"is broken itself \(weights are finite failed\)"):
        planned(stubs, SavedProfiles(baseline=broken, source=saved))


def test_a_profile_of_more_text_blocks_than_the_corpus_has_is_refused(
    saved: Path, stubs: Stubs
) -> None:
    found = read_baseline(saved).checkpoints[0]
    edited = profile(replace(found, text_blocks=found.text_blocks + 1))
    with pytest.raises(BaselineError, match="the same corpus has"):
        planned(stubs, SavedProfiles(baseline=edited, source=saved))


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


def test_a_partial_run_saves_no_profile_and_fails(stubs: Stubs, tmp_path: Path) -> None:
    options = ("-k", "outliers_are_present", "--robustness-save-baseline=base.json")
    run = run_suite(tmp_path, *stubs.options, *options)
    assert run.result.ret == 1
    assert "a profile is of a whole run" in run.facts["problems"][0]
    assert not (tmp_path / "base.json").exists()


@pytest.mark.parametrize("option", ["--robustness-baseline", "--reference"])
def test_one_file_cannot_be_both(option: str, saved: Path, stubs: Stubs) -> None:
    before = saved.read_bytes()
    options = (f"{option}=base.json", f"--robustness-save-baseline={saved}")
    result = run_pytest(saved.parent, *stubs.options, *options)
    assert "a run must not replace what it is judged by" in error_sentence(result)
    assert saved.read_bytes() == before


def test_a_profile_and_another_reference_are_refused_together(
    saved: Path, stubs: Stubs, tmp_path: Path
) -> None:
    options = (f"--robustness-baseline={saved}", f"--reference={stubs.model}")
    result = run_pytest(tmp_path, *stubs.options, *options)
    assert "leave one away" in error_sentence(result)


@pytest.mark.parametrize("nothing", ["", " "])
def test_a_reference_that_is_an_unset_variable_is_refused(
    nothing: str, stubs: Stubs, tmp_path: Path
) -> None:
    result = run_pytest(tmp_path, *stubs.options, f"--reference={nothing}")
    assert "--reference names nothing" in error_sentence(result)


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
        planned(stubs, profiles(saved), **options)
    assert named in str(caught.value)


def test_the_only_profile_of_a_file_is_of_every_candidate(saved: Path, stubs: Stubs) -> None:
    found = read_baseline(saved)
    renamed = profile(replace(found.checkpoints[0], label="release-1"))
    plan = planned(stubs, SavedProfiles(baseline=renamed, source=saved))
    assert plan.comparisons == 4
    assert RunPlan.from_json(plan.to_json()) == plan


def test_a_plan_with_another_checkpoint_travels(stubs: Stubs) -> None:
    plan = planned(stubs, str(stubs.other))
    assert RunPlan.from_json(plan.to_json()) == plan


def planted(stubs: Stubs, saved: Path, times: float, held: int) -> Vetting:
    """Against a profile whose perplexity was planted, with the first text blocks only."""
    entry = read_baseline(saved).checkpoints[0]
    nll = [x - t * math.log(times) for x, t in zip(entry.nll_nats, entry.tokens, strict=True)]
    ablations = tuple(replace(a, nll_nats=a.nll_nats[:held]) for a in entry.ablations)
    changed: CheckpointBaseline = replace(
        entry, nll_nats=tuple(nll[:held]), tokens=entry.tokens[:held], ablations=ablations
    )
    return vetting_of(planned(stubs, SavedProfiles(baseline=profile(changed), source=saved)))


def test_perplexity_is_decided_at_the_end_of_what_a_profile_holds(
    saved: Path, stubs: Stubs
) -> None:
    for times, passes in ((1.049, True), (1.051, False), (0.5, True)):
        vetting = planted(stubs, saved, times, held=48)
        verdict = vetting.reference.keeps_perplexity(within=1.05)
        assert bool(verdict) is passes
        assert verdict.measured == pytest.approx(times, rel=1e-9)
    short = planted(stubs, saved, 1.0, held=16).reference
    effect = short.keeps_effect((DIM,), least=0.5, most=2.0)
    assert (effect.exact, effect.seen, bool(effect)) == (True, 16, True)


def test_a_run_without_a_reference_says_how_to_get_one(stubs: Stubs) -> None:
    with pytest.raises(BaselineError, match="--robustness-reference=X"):
        _ = vetting_of(planned(stubs)).reference


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
