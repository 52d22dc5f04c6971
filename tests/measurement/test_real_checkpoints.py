"""Real checkpoints, end to end: the command's verdicts, and every number behind them.

The numbers are compared with ``tests/support/records/reference.py``, a plain loop written from
docs/PROTOCOL.md alone; the verdicts with what an exhaustive evaluation by that script gives
(stated in CASES).
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact, Intervention, PerBlockAblation
from robustness.checkpoint.reference import CheckpointRef
from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.scoring.sampling import DrawClock, random_dims
from robustness.scoring.scoring_plan import CHUNK_BLOCKS
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.shared import shared_data, shared_model, smollm2_reference
from tests.support.records import reference

BUILTIN = Path(__file__).resolve().parents[2] / "robustness" / "corpus" / "data" / "builtin"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A checkpoint with its text, and the truth about it by exhaustive plain-loop evaluation.

    Attributes:
        model: the command's ``--model``.
        corpus: the command's ``--robustness-corpus``.
        dims: the outlier dimensions.
        verdicts: of the default run, by test name and suffix.
        compared: dimensions whose ablation is compared with the plain loop.
    """

    model: Callable[[], str]
    corpus: Callable[[], str]
    dims: tuple[int, ...]
    verdicts: dict[str, str]
    compared: tuple[int, ...]


CASES = {
    "bert": Case(
        model=lambda: str(shared_model("rxnfp-bert-mlm")),
        corpus=lambda: f"{shared_data('rxnmapper_example_rxns.csv')}:rxn",
        dims=(),
        verdicts={
            "test_weights_are_finite": "pass",
            "test_outliers_are_present": "fail",
            "test_ablation_degrades-no-outliers": "not applicable",
            "test_joint_ablation_degrades-no-outliers": "not applicable",
            "test_random_ablation_is_harmless-no-outliers": "not applicable",
            "test_outliers_matter_more_than_chance-no-outliers": "not applicable",
        },
        compared=(213,),
    ),
    "albert": Case(
        model=lambda: str(shared_model("rxnmapper-albert-mlm")),
        corpus=lambda: f"{shared_data('rxnmapper_example_rxns.csv')}:rxn",
        dims=(60,),
        verdicts={
            "test_weights_are_finite": "pass",
            "test_outliers_are_present": "pass",
            "test_ablation_degrades-dim60": "fail",
            "test_joint_ablation_degrades-dim60": "fail",
            "test_random_ablation_is_harmless-1random": "pass",
            "test_outliers_matter_more_than_chance-dim60": "fail",
        },
        compared=(60,),
    ),
    "roberta": Case(
        model=lambda: str(shared_model("sapiens-roberta-vl")),
        corpus=lambda: str(shared_data("antibody-light.fa")),
        dims=(92, 112),
        verdicts={
            "test_weights_are_finite": "pass",
            "test_outliers_are_present": "pass",
            "test_ablation_degrades-dim92": "fail",
            "test_ablation_degrades-dim112": "fail",
            "test_joint_ablation_degrades-dims92+112": "fail",
            "test_random_ablation_is_harmless-2random": "pass",
            "test_outliers_matter_more_than_chance-dims92+112": "pass",
        },
        compared=(92, 112),
    ),
    "llama": Case(
        model=smollm2_reference,
        corpus=lambda: "builtin",
        dims=(100, 247, 507),
        verdicts={
            "test_weights_are_finite": "pass",
            "test_outliers_are_present": "pass",
            "test_ablation_degrades-dim100": "pass",
            "test_ablation_degrades-dim247": "pass",
            "test_ablation_degrades-dim507": "pass",
            "test_joint_ablation_degrades-dims100+247+507": "pass",
            "test_random_ablation_is_harmless-3random": "pass",
            "test_outliers_matter_more_than_chance-dims100+247+507": "pass",
        },
        compared=(507,),
    ),
}
SMALL = ("bert", "albert", "roberta")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests and workers: what one has measured the others read."""
    base = tmp_path_factory.getbasetemp()
    in_worker = "PYTEST_XDIST_WORKER" in os.environ
    return (base.parent if in_worker else base) / "real-checkpoints-store"


def _vetting(case: Case, store: Path) -> Vetting:
    policy = load_policy(None, options={"corpus": case.corpus()})
    (planned,) = make_plan([case.model()], policy, Context(root=store)).checkpoints
    return Vetting(
        checkpoint=planned.load(),
        settings=planned.settings,
        model_profile=planned.model_profile,
        context=Context(root=store),
    )


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The same checkpoint and text as the plain loop reads them."""

    checkpoint: reference.Checkpoint
    blocks: list[reference.TextBlock]
    order: list[int]
    fingerprint: str

    def nll(self, places: range, dims: tuple[int, ...] = ()) -> list[float]:
        """NLL of these places of the seeded order."""
        scored = reference.nlls(
            self.checkpoint,
            self.blocks,
            [self.order[place] for place in places],
            dims,
            seed=0,
            corpus_fingerprint=self.fingerprint,
        )
        return [nll for nll, _ in scored]


def _plain(case: Case) -> Plain:
    checkpoint = reference.load(Path(CheckpointRef.parse(case.model()).target))
    layout: reference.Layout = "packed" if checkpoint.kind == "causal" else "lines"
    corpus = case.corpus()
    texts = reference.read_corpus(str(BUILTIN) if corpus == "builtin" else corpus, layout)
    blocks = reference.text_blocks(texts, layout, checkpoint.tokenizer, 128)
    fingerprint = reference.fingerprint(texts, layout)
    order = reference.measurement_order(len(blocks), 0, fingerprint)
    return Plain(checkpoint=checkpoint, blocks=blocks, order=order, fingerprint=fingerprint)


def _conditions(case: Case, vetting: Vetting) -> list[tuple[int, ...]]:
    """Intact, each compared dimension alone, all of them, and the first three random draws."""
    hidden_size = vetting.model_profile.hidden_size
    candidates = [dim for dim in range(hidden_size) if dim not in case.dims]
    draws = [random_dims(candidates, max(1, len(case.dims)), seed=0, draw=n) for n in range(3)]
    singles = [(dim,) for dim in case.compared]
    return list(dict.fromkeys([(), *singles, case.dims or case.compared, *draws]))


def _measured(vetting: Vetting, dims: tuple[int, ...], chunks: range) -> list[float]:
    intervention: Intervention = FixedAblation(ablation=Ablation(dims=dims)) if dims else Intact()
    return [
        nll
        for chunk in chunks
        for nll in vetting.measurement.chunk(chunk, intervention)[0].nll_nats.tolist()
    ]


def _compare(case: Case, store: Path, n_chunks: int | None) -> None:
    vetting, plain = _vetting(case, store), _plain(case)
    assert tuple(outlier.dim for outlier in reference.detect(plain.checkpoint.model)) == case.dims
    assert vetting.outliers().dims == case.dims
    assert vetting.measurement.layout.n_blocks == len(plain.blocks)
    assert vetting.measurement.order.tolist() == plain.order
    chunks = range(n_chunks or vetting.measurement.n_chunks)
    places = range(min(len(plain.blocks), len(chunks) * CHUNK_BLOCKS))
    for dims in _conditions(case, vetting):
        measured, expected = _measured(vetting, dims, chunks), plain.nll(places, dims)
        assert measured == pytest.approx(expected, rel=1e-4, abs=1e-4), dims
        assert math.fsum(measured) == pytest.approx(math.fsum(expected), rel=1e-4)


def _compare_control(case: Case, store: Path, n_chunks: int) -> None:
    """Rows of one batch with different dimensions, against one forward pass for each."""
    vetting, plain = _vetting(case, store), _plain(case)
    clock = DrawClock()
    size = max(1, len(case.dims))
    candidates = [d for d in range(vetting.model_profile.hidden_size) if d not in case.dims]
    for chunk in range(n_chunks):
        (intact,) = vetting.measurement.chunk(chunk, Intact())
        draws = clock.assign(intact.tokens.tolist())
        dims = tuple(random_dims(candidates, size, seed=0, draw=draw) for draw in draws)
        (control,) = vetting.measurement.chunk(
            chunk, PerBlockAblation(template=Ablation(dims=(0,)), dims=dims)
        )
        start = chunk * CHUNK_BLOCKS
        expected = [plain.nll(range(start + n, start + n + 1), d)[0] for n, d in enumerate(dims)]
        assert control.nll_nats.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        width = vetting.model_profile.hidden_size
        for draw, chosen in zip(draws, dims, strict=True):
            assert list(chosen) == sorted(reference.draw_dims(draw, size, case.dims, width, 0))


@pytest.mark.parametrize("name", SMALL)
def test_every_number_is_that_of_the_plain_loop(name: str, store: Path) -> None:
    _compare(CASES[name], store, n_chunks=2)
    _compare_control(CASES[name], store, n_chunks=2)


@pytest.mark.slow
def test_every_number_of_a_gguf_is_that_of_the_plain_loop(store: Path) -> None:
    _compare(CASES["llama"], store, n_chunks=1)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("bert", marks=pytest.mark.long),
        pytest.param("albert", marks=pytest.mark.long),
        pytest.param("roberta", marks=pytest.mark.slow),
    ],
)
def test_the_whole_corpus_is_that_of_the_plain_loop(name: str, store: Path) -> None:
    _compare(CASES[name], store, n_chunks=None)


@pytest.mark.slow
def test_the_control_of_a_gguf_is_that_of_the_plain_loop(store: Path) -> None:
    _compare_control(CASES["llama"], store, n_chunks=1)


def _run(case: Case, folder: Path, store: Path, *options: str) -> dict[str, Any]:
    """The command as users run it, in a folder of its own; the JSON report."""
    file = folder / "report.json"
    command = [
        *("pytest", f"--model={case.model()}", f"--robustness-corpus={case.corpus()}"),
        *(f"--robustness-store={store}", f"--robustness-json={file}", "-p", "no:cacheprovider"),
        *options,
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stdout + result.stderr
    facts: dict[str, Any] = json.loads(file.read_text())
    assert facts["passed"] == (result.returncode == 0), result.stdout
    return facts


def _verdicts(facts: dict[str, Any]) -> dict[str, str]:
    """Verdicts by test name and suffix, without the checkpoint's label."""
    (checkpoint,) = facts["checkpoints"]
    found = {}
    for check in checkpoint["checks"]:
        name = check["id"].split("::")[-1].replace(f"[{checkpoint['label']}", "").rstrip("]")
        found[name] = check["outcome"]
    return found


QUICK = ("bert", "roberta")
"""Albert's factor is so near the threshold that it needs all of the text, Llama is large."""


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in ("albert", "llama"))]
)
def test_the_command_gives_the_verdicts_of_an_exhaustive_measurement(
    name: str, tmp_path: Path, store: Path
) -> None:
    facts = _run(CASES[name], tmp_path, store)
    (checkpoint,) = facts["checkpoints"]
    assert tuple(outlier["dim"] for outlier in checkpoint["outliers"]) == CASES[name].dims
    assert _verdicts(facts) == CASES[name].verdicts


@pytest.mark.parametrize(
    "name",
    ["roberta", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "albert"))],
)
def test_early_decisions_are_those_of_the_whole_corpus(
    name: str, tmp_path: Path, store: Path
) -> None:
    facts = _run(CASES[name], tmp_path, store, "--robustness-exhaustive")
    assert _verdicts(facts) == CASES[name].verdicts
    (checkpoint,) = facts["checkpoints"]
    for check in checkpoint["checks"]:
        if check["seen"]:
            assert check["seen"] >= checkpoint["corpus_text_blocks"]


@pytest.mark.long
def test_early_decisions_about_a_gguf_are_those_of_the_whole_corpus(
    tmp_path: Path, store: Path
) -> None:
    facts = _run(CASES["llama"], tmp_path, store, "--robustness-exhaustive")
    assert _verdicts(facts) == CASES["llama"].verdicts


@pytest.mark.slow
def test_a_gguf_on_wikitext(tmp_path: Path, store: Path) -> None:
    case = CASES["llama"]
    wikitext = Case(
        model=case.model,
        corpus=lambda: str(shared_data("wikitext-2-raw/wiki.test.raw")),
        dims=case.dims,
        verdicts=case.verdicts,
        compared=case.compared,
    )
    _compare(wikitext, store, n_chunks=1)
    facts = _run(wikitext, tmp_path, store)
    assert _verdicts(facts) == case.verdicts
    (checkpoint,) = facts["checkpoints"]
    ratios = {tuple(check["dims"]): check["measured"] for check in checkpoint["checks"]}
    assert ratios[(507,)] > 100


def _without_times(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in ("started", "duration_s")}


@pytest.mark.slow
def test_workers_change_nothing_and_a_second_run_measures_nothing(tmp_path: Path) -> None:
    case = CASES["roberta"]
    runs = {}
    for state, options in (("alone", ["-p", "no:xdist"]), ("workers", ["-n", "2"])):
        folder = tmp_path / state
        folder.mkdir()
        runs[state] = _run(case, folder, folder / "store", *options)
        chunks = set((folder / "store").rglob("*.json"))
        again = _run(case, folder, folder / "store", *options)
        assert _without_times(again) == _without_times(runs[state])
        assert set((folder / "store").rglob("*.json")) == chunks
    commands = [runs[state].pop("command") for state in ("alone", "workers")]
    assert ["-n 2" in command for command in commands] == [False, True]
    one, two = (_flat(runs[state]) for state in ("alone", "workers"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        if isinstance(value, float):
            assert two[key] == pytest.approx(value, rel=1e-5), key
        else:
            assert two[key] == value, key
    shutil.rmtree(tmp_path / "alone")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of nested JSON by path, without times."""
    items: Iterable[tuple[object, Any]]
    if isinstance(value, dict):
        items = _without_times(value).items()
    elif isinstance(value, list):
        items = dict(enumerate(value)).items()
    else:
        return {path: value}
    return {k: v for name, item in items for k, v in _flat(item, f"{path}/{name}").items()}
