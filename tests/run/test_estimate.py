"""What a run will cost, said before it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from robustness.anatomy.anatomy import trace_anatomy
from robustness.policy.policy import Policy
from robustness.run.estimate import describe, estimate
from robustness.run.planning import make_plan
from robustness.store.context import Context
from tests.support.checkpoints.tiny_models import tiny_inputs, tiny_model
from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    Stubs,
    error_sentence,
    run_pytest,
    run_suite,
    text_of,
)
from tests.support.records.plans import plan


def measured_blocks(store: Path) -> int:
    """Text blocks that went through the model, by what lies in the store."""
    records = (json.loads(file.read_text()).get("record", {}) for file in store.rglob("*.json"))
    return sum(len(record.get("nll_nats", ())) for record in records)


def test_the_plan_is_shown_before_anything_is_measured_and_its_estimate_holds(
    stubs: Stubs, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    options = (*stubs.options, f"--robustness-store={store}")
    shown = run_pytest(tmp_path, *options, "--robustness-plan", "-n", "2")
    assert shown.ret == 0
    assert measured_blocks(store) == 0
    assert f"  test_ablation_degrades[{LABEL}-dim{DIM}]: dimension {DIM}" in shown.outlines
    assert "passed" not in text_of(shown)
    assert "workers [" not in text_of(shown)
    found = re.search(r"estimate: ([\d,]+) to ([\d,]+) text blocks", text_of(shown))
    assert found is not None
    least, most = (int(number.replace(",", "")) for number in found.groups())

    assert run_suite(tmp_path, *options).result.ret == 0
    assert least <= measured_blocks(store) <= most


def test_a_plan_needs_a_checkpoint_that_can_be_vetted(stubs: Stubs, tmp_path: Path) -> None:
    assert "add --model=X" in error_sentence(run_pytest(tmp_path, "--robustness-plan"))
    absent = run_pytest(tmp_path, "--model=./absent", "--robustness-plan")
    assert "absent" in error_sentence(absent)
    assert stubs.model.is_dir()


def test_an_exhaustive_run_is_estimated_over_the_whole_corpus() -> None:
    (planned,) = plan("a").checkpoints
    lazy = estimate(planned)
    settings = planned.settings.model_copy(update={"exhaustive": True})
    thorough = estimate(replace(planned, settings=settings))
    conditions, n = 2, planned.text_blocks  # intact, without dimension 7
    draws_blocks = 128 * 4  # four text blocks of 19 masked tokens until 64 are scored
    assert lazy.least_blocks == conditions * 32 + draws_blocks
    assert thorough.least_blocks == conditions * n + draws_blocks
    assert lazy.most_blocks == thorough.most_blocks == conditions * n + 1000 * 4
    assert lazy.flops_per_block == 2 * 110e6 * 128
    assert lazy.seconds(1e9)[0] == pytest.approx(lazy.least_blocks * 28.16)
    assert lazy.memory_bytes > 4 * 110e6


@pytest.mark.parametrize(("kind", "uses"), [("albert", 3), ("bert", 1), ("t5", 1), ("xlnet", 1)])
def test_weights_that_layers_share_are_counted_as_often_as_they_are_used(
    kind: str, uses: int
) -> None:
    (planned,) = plan("a").checkpoints
    anatomy = trace_anatomy(tiny_model(kind), tiny_inputs(kind))
    assert uses in {1, anatomy.stack.n_layers}
    record = replace(planned.model_profile, anatomy_record=anatomy.to_dict())
    found = estimate(replace(planned, model_profile=record)).flops_per_block
    assert found == uses * estimate(planned).flops_per_block


def test_nothing_is_claimed_of_the_speed_of_another_device() -> None:
    (planned,) = plan("a").checkpoints
    elsewhere = replace(planned, settings=planned.settings.model_copy(update={"device": "cuda"}))
    for found, said in ((planned, True), (elsewhere, False)):
        (lines,) = describe(replace(plan("a"), checkpoints=(found,)), 1e12).values()
        assert ("on this processor" in lines[-1]) is said


def test_checks_that_do_not_apply_cost_nothing(stubs: Stubs) -> None:
    policy = Policy(options={"corpus": str(stubs.corpus)})
    found = make_plan([str(stubs.plain)], policy, Context(root=stubs.store))
    cost = estimate(found.checkpoints[0])
    assert (cost.least_blocks, cost.most_blocks) == (32, found.checkpoints[0].text_blocks)
    (lines,) = describe(found, 1e12).values()
    assert sum("not applicable" in line for line in lines) == 4
