"""The benchmark on damage: what it does to small random checkpoints, and its plain loop."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from tests.support.checkpoints.checkpoint_folders import tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]
WORDS = 64
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "tie_word_embeddings": True,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
}
STEPS = (5, 20, 80)
CLASSES = ("RobertaForMaskedLM", "AlbertForMaskedLM", "LlamaForCausalLM")


@pytest.fixture(scope="module")
def damage() -> Iterator[Any]:
    """The modules of the benchmark, as one."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import damage
        import damage_checkpoint
        import damage_gate
        import damage_harmless
        import damage_numbers
        import damage_table
        import damage_truth

        modules = (
            *(damage_truth, damage_harmless, damage_numbers, damage_checkpoint),
            *(damage_gate, damage_table, damage),
        )
        yield SimpleNamespace(**{k: v for module in modules for k, v in vars(module).items()})
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def sentence(n: int) -> str:
    """Nine words of the tokenizer; the smaller ones come more often."""
    return " ".join(f"w{(n * 7919 + k * k * 104729) % (11 + 4 * k)}" for k in range(9))


@pytest.fixture(scope="module", params=CLASSES)
def stored(damage: Any, request: pytest.FixtureRequest, tmp_path_factory: Any) -> Any:
    """A random checkpoint whose weights are large enough that everything in it matters."""
    name = request.param
    settings = {"embedding_size": 32} if name.startswith("Albert") else {}
    model = tiny_model(name, **SIZES, **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.15 * torch.randn(tensor.shape, generator=generator)
    tokenizer = tiny_tokenizer(WORDS)
    begin, end = ("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[begin, end]
    )
    folder = tmp_path_factory.mktemp(name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    here, elsewhere = (tuple(map(sentence, range(n, n + 24))) for n in (0, 100))
    texts = damage.Texts(here=here, elsewhere=elsewhere, other=("w1 w9 w9 w1", "w9 w1 w1 w9 w1"))
    return damage.read(folder, texts)


def outputs(damage: Any, stored: Any, folder: Path) -> torch.Tensor:
    """Logits of a few texts without their special tokens, one below the other."""
    model, tokenizer = damage.loaded(damage.write(stored, folder))
    rows = []
    with torch.no_grad():
        for text in stored.texts.here[:3]:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            ordinary = [n for n, token in enumerate(ids[0].tolist()) if token > 4]
            rows.append(model(ids).logits[0, ordinary])
    return torch.cat(rows)


def test_every_kind_of_damage_changes_what_a_model_says_and_not_the_one_it_is_made_from(
    damage: Any, stored: Any, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in stored.tensors.items()}
    settings = json.dumps([stored.config, stored.tokenizer])
    intact = outputs(damage, stored, tmp_path / "intact")
    names = set()
    for number, (name, kind, strength) in enumerate(damage.zoo(stored)):
        tried = kind.strengths[0 if kind.strengths == STEPS else -1]
        if strength != tried and kind.strengths != damage.PLACES:
            continue
        made = kind.change(stored, strength)
        found = outputs(damage, made, tmp_path / str(number))
        assert not torch.allclose(found, intact, atol=1e-4), name
        names.add(kind.name)
    assert len(names) >= 24
    assert all(torch.equal(stored.tensors[name], tensor) for name, tensor in before.items())
    assert json.dumps([stored.config, stored.tokenizer]) == settings


def test_exact_variants_change_nothing(damage: Any, stored: Any, tmp_path: Path) -> None:
    intact = outputs(damage, stored, tmp_path / "intact")
    for number, variant in enumerate(damage.variants(stored)):
        if variant.exact:
            found = outputs(damage, variant.change(stored), tmp_path / str(number))
            torch.testing.assert_close(found, intact, atol=1e-4, rtol=1e-4, msg=variant.name)


def test_there_are_as_many_kinds_and_variants_as_promised(damage: Any, stored: Any) -> None:
    kinds = {kind.name for _, kind, _ in damage.zoo(stored)}
    assert len(kinds) >= 24
    assert all(len(kind.strengths) >= 3 for kind in damage.KINDS)
    names = [candidate.name for candidate in damage.candidates(stored, few=False)]
    assert len(set(names)) == len(names)
    if not stored.causal:
        assert sum(not variant.training for variant in damage.variants(stored)) >= 40


def test_structural_damage_is_where_it_says(damage: Any, stored: Any) -> None:
    kinds = {kind.name: kind.change for kind in damage.KINDS}

    def changed(made: Any) -> set[str]:
        before, after = stored.tensors, made.tensors
        assert before.keys() == after.keys()
        return {name for name in before if not torch.equal(before[name], after[name])}

    last = stored.layers - 1
    dead = kinds["dead attention"](stored, "last")
    assert changed(dead) == set(stored.names("attention writer", [last]))
    assert all(not dead.tensors[name].any() for name in changed(dead))
    for name in changed(half := kinds["zeroed heads"](stored, "half")):
        width = half.tensors[name].shape[1]
        assert not half.tensors[name][:, : width // 2].any()
        assert torch.equal(
            half.tensors[name][:, width // 2 :], stored.tensors[name][:, width // 2 :]
        )
    (words,) = stored.names("words")
    rows = stored.tensors[words]
    one, other = stored.texts.frequent[:2]
    swapped = kinds["swapped rows"](stored, "two common")
    assert changed(swapped) == {words}
    moved = (swapped.tensors[words] != rows).any(1).nonzero().flatten().tolist()
    assert moved == sorted((one, other))
    assert torch.equal(swapped.tensors[words][one], rows[other])
    tokens = kinds["wrong tokenizer"](stored, "two").tokenizer["model"]["vocab"]
    then = stored.tokenizer["model"]["vocab"]
    assert sorted(tokens[token] for token in tokens if tokens[token] != then[token]) == moved
    if not stored.shares_layers:
        away = kinds["dropped layer"](stored, "first")
        assert (away.config["num_hidden_layers"], away.layers) == (3, 3)
        kept = {n: t for n, t in stored.tensors.items() if damage.layer_of(n) == 1}
        assert all(torch.equal(away.tensors[damage.renumbered(n, 0)], t) for n, t in kept.items())


def test_the_loop_scores_each_token_as_one_pass_after_the_other_does(
    damage: Any, stored: Any, tmp_path: Path
) -> None:
    model, tokenizer = damage.loaded(damage.write(stored, tmp_path))
    text = stored.texts.here[0]
    ids = torch.tensor(tokenizer(text)["input_ids"])
    with torch.no_grad():
        if stored.causal:
            found = damage.scored(model, tokenizer, text, ways=0)
            expected = [
                -float(model(ids[None, :n]).logits[0, -1].double().log_softmax(-1)[ids[n]])
                for n in range(3, len(ids))
            ]
        else:
            found = damage.scored(model, tokenizer, text, ways=7)
            expected = []
            for n in range(1, len(ids) - 1):
                shown = ids.clone()
                shown[1 + (n - 1) % 7 : -1 : 7] = tokenizer.mask_token_id
                logits = model(shown[None]).logits[0, n].double()
                expected.append(-float(logits.log_softmax(-1)[ids[n]]))
    assert len(found.tokens) == len(expected)
    assert found.nll == pytest.approx(sum(expected), rel=1e-4)


def test_an_effect_is_the_ratio_of_perplexities_with_divergence_and_changed_predictions(
    damage: Any,
) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(0, 6, (n,), generator=generator) for n in (4, 9)]
    pair = [
        [
            damage.Scored(t, torch.randn(len(t), 6, generator=generator).log_softmax(1))
            for t in tokens
        ]
        for _ in range(2)
    ]
    now, then = (torch.cat([each.log_probabilities for each in scored]).double() for scored in pair)
    chosen = torch.cat(tokens)
    found = damage.effect(*pair)
    harm = sum(float(then[n, t] - now[n, t]) for n, t in enumerate(chosen.tolist())) / 13
    nats = sum(
        float(then[n, v].exp() * (then[n, v] - now[n, v])) for n in range(13) for v in range(6)
    )
    assert found.ratio == pytest.approx(float(torch.tensor(harm).exp()), rel=1e-5)
    assert found.nats == pytest.approx(nats / 13, rel=1e-5)
    assert found.share == pytest.approx(float((now.argmax(1) != then.argmax(1)).double().mean()))
    assert damage.effect(pair[0], pair[0]) == (1.0, 0.0, 0.0, 0.0)


def test_infinite_weights_have_an_infinite_effect(damage: Any, stored: Any, tmp_path: Path) -> None:
    change = next(kind.change for kind in damage.KINDS if kind.name == "half precision")
    ways = 0 if stored.causal else 2
    then = damage.loaded(damage.write(stored, tmp_path / "then"))
    now = damage.loaded(damage.write(change(stored, "overflow"), tmp_path / "now"))
    texts = stored.texts.elsewhere[:2]
    both = [damage.all_scored(*each, texts, ways=ways) for each in (now, then)]
    assert damage.effect(*both)[0] == float("inf")
    assert damage.largest_change(now[0], then[0]) == float("inf")
    assert damage.largest_change(then[0], then[0]) == 0


RECORDS = {
    "tiny": {
        "noise/0.05": {"group": "damage", "weights": 0.04, "here": [1.0, 0, 0.001, 0.01],
                       "elsewhere": [1.001, 0, 0.001, 0.01],
                       "gate": {"outcome": "pass", "checks": {"kept": ["pass", 1.0, 48]}}},
        "noise/0.1": {"group": "damage", "weights": 0.1, "here": [1.03, 0, 0.02, 0.03],
                      "elsewhere": [1.04, 0, 0.02, 0.03],
                      "gate": {"outcome": "pass", "checks": {"kept": ["pass", 1.0, 96]}}},
        "noise/0.3": {"group": "damage", "weights": "inf", "here": ["inf", "inf", "inf", 1.0],
                      "elsewhere": ["inf", "inf", "inf", 1.0], "gate": {"outcome": "refused"}},
        "copy": {"group": "harmless", "weights": 1.4, "here": [1.0, 0, 0.0, 0.0],
                 "elsewhere": [1.0, 0, 0.0, 0.0],
                 "gate": {"outcome": "fail", "checks": {"outliers_are_kept": ["fail", None, 32]}}},
        "not asked": {"group": "harmless", "weights": 0.0, "here": [1.0, 0, 0.004, 0.0],
                      "elsewhere": [1.0, 0, 0.004, 0.0]},
    }
}  # fmt: skip


def test_the_tables_count_what_is_caught_missed_and_alarmed_falsely(damage: Any) -> None:
    found = list(damage.found(RECORDS))
    assert [each.truth for each in found] == ["mild", "damaged", "damaged", "harmless", "harmless"]
    table = list(damage.score(found))[2:]
    assert table == [
        "| the gate | 1 of 2 | 0 of 1 | 1 of 1 | 0 of 0 |",
        "| perplexity alone, 5% | 1 of 2 | 0 of 1 | 0 of 1 | 0 of 0 |",
        "| weights alone, 5% | 2 of 2 | 0 of 1 | 1 of 1 | 0 of 0 |",
    ]
    assert [line.partition("(")[0] for line in damage.wrong(found)] == [
        "- missed: tiny, noise/0.1 ",
        "- false alarm: tiny, copy ",
    ]
    (line,) = list(damage.by_kind(found))[2:]
    assert "0.05: ×1.001, passes; 0.1: ×1.04, **missed**; 0.3: ×inf, refused" in line
    assert damage.spread([48, 96, 32]) == (
        "at most 64 text blocks: 2 of 3 (67%; median 48, nine of ten 96)"
    )
    assert [each.needed for each in found if each.seen] == [48, 96, 32]
    assert ["1 of 2 (50%" in line for line in damage.blocks(found)] == [True, True, False, False]
    assert list(damage.by_check(found))[2:] == [
        "| `kept` | 0 of 1 | 0 of 1 | 0 of 1 | 0 of 0 |",
        "| `outliers_are_kept` | 0 of 1 | 0 of 1 | 1 of 1 | 0 of 0 |",
    ]
    at = damage.parting(found, "nats")
    assert (at.harmless, at.damaged, at.missed, at.alarms) == (0.004, 0.02, 0, 0)
    assert at.cut == pytest.approx((0.004 * 0.02) ** 0.5)


def test_a_report_is_summed_up_by_check(damage: Any) -> None:
    checks = [
        {"id": "s::test_perplexity_is_kept[a]", "outcome": "pass", "measured": 1.00012345,
         "seen": 48, "dims": []},
        {"id": "s::test_outliers_are_kept[a-outliers]", "outcome": "pass", "measured": None,
         "seen": 0, "dims": [3]},
        {"id": "s::test_outliers_are_kept[a-dims3]", "outcome": "fail", "measured": 0.1,
         "seen": 32, "dims": [3]},
    ]  # fmt: skip
    found = damage.summary({"checks": checks})
    assert found["outcome"] == "fail"
    assert found["checks"] == {
        "perplexity_is_kept": ["pass", 1.0, 48],
        "outliers_are_kept": ["pass", None, 0],
        "outliers_are_kept, 3": ["fail", 0.1, 32],
    }


def test_a_refused_candidate_is_left_out_and_the_others_are_decided_on(
    damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run(command: list[str], **_: Any) -> Any:
        models = [each.partition("=")[2] for each in command if each.startswith("--model=")]
        asked.append([Path(model).name for model in models])
        if "c01" in asked[-1]:
            error = f"ERROR: robustness: {tmp_path / 'c01'} has another vocabulary\n"
            return SimpleNamespace(returncode=4, stdout="", stderr=error)
        (report,) = (each for each in command if each.startswith("--robustness-json="))
        found = [{"reference": model, "checks": []} for model in models]
        Path(report.partition("=")[2]).write_text(json.dumps({"checkpoints": found}))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr("subprocess.run", run)
    gate = damage.Gate(reference="there", corpus="text", work=tmp_path)
    found = gate.decide([tmp_path / name for name in ("c00", "c01", "c02")])
    assert asked == [["c00", "c01", "c02"], ["c00", "c02"]]
    assert {folder.name: each["outcome"] for folder, each in found.items()} == {
        "c00": "pass", "c01": "refused", "c02": "pass"
    }  # fmt: skip
    assert "c01 has another vocabulary" in found[tmp_path / "c01"]["said"]
