"""The ways of masking, each against a plain loop that uses nothing of the package."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from robustness.ablation.ablation import Ablation
from robustness.ablation.interventions import FixedAblation, Intact, PerBlockAblation
from robustness.corpus.blocks import text_blocks
from robustness.corpus.corpus import load_corpus
from robustness.errors import CorpusError, PolicyError
from robustness.measurement.batching import CPU_TOKENS
from robustness.policy.policy import load_policy
from robustness.run.planning import make_plan
from robustness.scoring.block import TextBlock
from robustness.scoring.forward import Scorer
from robustness.scoring.masked import masked_rows
from robustness.scoring.options import ScoringOptions
from robustness.scoring.questions import Questions
from robustness.scoring.sampling import BlockSeed
from robustness.store.context import Context
from robustness.vetting import Vetting
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model
from tests.support.checkpoints.shared import bert_tiny_reference, shared_model

MASKINGS = ("all", "bert", "pll", "pll-word-l2r")
BLOCK_SIZE = 14


def _number(label: str) -> int:
    return int(hashlib.sha256(label.encode()).hexdigest(), 16)


def word_piece_tokenizer() -> Any:
    """A WordPiece tokenizer in which every letter behind a word's first is a token of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"abcdefg", *(f"##{letter}" for letter in "abcdefg")]
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    cls: Any = PreTrainedTokenizerFast  # partly untyped
    return cls(
        tokenizer_object=backend, **{f"{name}_token": token for name, token in names.items()}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model("BertForMaskedLM", vocab_size=19)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return save_checkpoint(
        tmp_path_factory.mktemp("masking") / "bert", model, word_piece_tokenizer()
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefg"), rng.integers(1, 6))) for _ in range(80)]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(" ".join(words))
    return file


Measured = Callable[[str], Vetting]


@pytest.fixture
def vetted(folder: Path, text: Path, tmp_path: Path) -> Measured:
    def vetted(masking: str) -> Vetting:
        policy = load_policy(
            None, options={"corpus": str(text), "block_size": BLOCK_SIZE, "masking": masking}
        )
        (planned,) = make_plan([str(folder)], policy, Context(root=tmp_path / "store")).checkpoints
        return Vetting(
            checkpoint=planned.load(),
            settings=planned.settings,
            context=Context(root=tmp_path / "store"),
        )

    return vetted


def _plain_rows(
    ids: list[int], words: list[int], masking: str, fingerprint: str, block: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Shown tokens and scored positions of every row, as docs/PROTOCOL.md states them."""
    inside = range(1, len(ids) - 1)  # [CLS] … [SEP]
    label = f"0:{fingerprint}:{block}"
    if masking in ("all", "bert"):
        wanted = max(1, round(0.15 * len(inside)))
        chosen = sorted(sorted(inside, key=lambda p: _number(f"mask:{label}:{p}"))[:wanted])
        shown = list(ids)
        for p in chosen:
            lot = 0 if masking == "all" else _number(f"bert:{label}:{p}") % 10
            if lot < 8:
                shown[p] = 4
            elif lot == 8:
                shown[p] = range(5, 19)[_number(f"random:{label}:{p}") % 14]
        yield shown, chosen
        return
    for p in inside:
        shown = list(ids)
        shown[p] = 4
        for later in range(p + 1, len(ids) - 1):
            if masking == "pll-word-l2r" and words[later] == words[p]:
                shown[later] = 4
        yield shown, [p]


@pytest.mark.parametrize("masking", MASKINGS)
def test_every_masking_scores_what_a_plain_loop_scores(
    masking: str, vetted: Measured, text: Path
) -> None:
    vetting = vetted(masking)
    measurement = vetting.measurement
    (measured,) = measurement.chunk(0, Intact())
    model = vetting.checkpoint.load_model()

    words, pieces = text.read_text().split(), []
    for number, word in enumerate(words):
        for place, letter in enumerate(word):
            pieces.append((5 + "abcdefg".index(letter) + (7 if place else 0), number))
    size = BLOCK_SIZE - 2
    blocks = [pieces[i : i + size] for i in range(0, len(pieces) - size + 1, size)]
    fingerprint = vetting.corpus.fingerprint
    order = sorted(range(len(blocks)), key=lambda b: _number(f"order:0:{fingerprint}:{b}"))
    for place, block in enumerate(order[:16]):
        ids = [2, *(token for token, _ in blocks[block]), 3]
        of_word = [-1, *(word for _, word in blocks[block]), -2]
        nll, tokens = 0.0, 0
        for shown, scored in _plain_rows(ids, of_word, masking, fingerprint, block):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([shown])).logits[0].double()
            for p in scored:
                nll -= float(torch.log_softmax(logits[p], -1)[ids[p]])
                tokens += 1
        assert measured.tokens[place] == tokens
        assert measured.nll_nats[place] == pytest.approx(nll, rel=1e-5)


@pytest.mark.slow
def test_words_that_a_real_tokenizer_splits_are_hidden_to_their_end(tmp_path: Path) -> None:
    """BERT-tiny, by ``word_ids()`` of its own tokenizer."""
    file = tmp_path / "text.txt"
    file.write_text("Unbelievably, electroencephalographers misunderstood tokenization. " * 4)
    options = {"corpus": str(file), "block_size": 24, "masking": "pll-word-l2r"}
    context = Context(root=tmp_path / "store")
    policy = load_policy(None, options=options)
    (planned,) = make_plan([bert_tiny_reference()], policy, context).checkpoints
    vetting = Vetting(checkpoint=planned.load(), settings=planned.settings, context=context)
    (measured,) = vetting.measurement.chunk(0, Intact())

    tokenizer, model = vetting.checkpoint.load_tokenizer(), vetting.checkpoint.load_model()
    encoded = tokenizer(file.read_text(), add_special_tokens=False)
    words, size = encoded.word_ids(), 22
    assert max(words.count(word) for word in set(words)) > 4
    expected = []
    for start in range(0, len(words) - size + 1, size):
        ids = [tokenizer.cls_token_id, *encoded["input_ids"][start : start + size]]
        of_word, nll = [None, *words[start : start + size], None], 0.0
        for p in range(1, size + 1):
            shown = torch.tensor([[*ids, tokenizer.sep_token_id]])
            for later in range(p, size + 1):
                if of_word[later] == of_word[p]:
                    shown[0, later] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(input_ids=shown).logits[0, p].double()
            nll -= float(torch.log_softmax(logits, -1)[ids[p]])
        expected.append(nll)
    assert len(expected) > 1
    whole = [n for n, k in zip(measured.nll_nats, measured.tokens, strict=True) if k == size]
    assert sorted(whole) == pytest.approx(sorted(expected), rel=1e-5)


def test_a_random_control_ablates_each_text_block_alone_in_all_its_rows(vetted: Measured) -> None:
    measurement = vetted("pll").measurement
    dims = tuple((block % 5,) for block in range(16))
    (mixed,) = measurement.chunk(0, PerBlockAblation(template=Ablation(dims=(0,)), dims=dims))
    for dim in range(5):
        (alone,) = measurement.chunk(0, FixedAblation(ablation=Ablation(dims=(dim,))))
        rows = [block for block in range(16) if dims[block] == (dim,)]
        assert mixed.nll_nats[rows] == pytest.approx(alone.nll_nats[rows], rel=1e-5)


def test_passes_are_bounded_however_many_rows_there_are(
    vetted: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    measurement = vetted("pll").measurement
    sizes: list[int] = []
    score = Scorer.nll_nats

    def recording(scorer: Scorer, rows: Any) -> Any:
        sizes.append(len(rows))
        return score(scorer, rows)

    monkeypatch.setattr(Scorer, "nll_nats", recording)
    measurement.chunk(0, Intact())
    assert max(sizes) <= CPU_TOKENS // BLOCK_SIZE
    assert sum(sizes) == 16 * (BLOCK_SIZE - 2)


def test_maskings_do_not_share_stored_numbers_and_the_usual_one_keeps_its_name(
    vetted: Measured,
) -> None:
    keys = [vetted(masking).measurement.store.context for masking in MASKINGS]
    assert "masking" not in keys[0]
    assert [key["masking"] for key in keys[1:]] == list(MASKINGS[1:])


@given(st.integers(0, 2**32))
def test_bert_masks_about_eight_in_ten(seed: int) -> None:
    special = np.zeros(2000, dtype=bool)
    ids = np.full(2000, 7)
    block = TextBlock(ids=ids, special=special, seed=BlockSeed(seed, "f", 0))
    (row,) = masked_rows(block, masking="bert", mask_id=4, vocabulary=range(100, 200))
    shown = row.ids[row.positions]
    assert len(shown) == 300
    assert (np.delete(row.ids, row.positions) == 7).all()
    # The binomial's five standard deviations.
    assert abs((shown == 4).sum() - 240) < 5 * np.sqrt(300 * 0.8 * 0.2)
    assert abs((shown >= 100).sum() - 30) < 5 * np.sqrt(300 * 0.1 * 0.9)
    assert abs((shown == 7).sum() - 30) < 5 * np.sqrt(300 * 0.1 * 0.9)


def test_words_are_needed_for_word_l2r(text: Path) -> None:
    corpus = load_corpus(str(text))
    tokenizer = word_piece_tokenizer()
    blocks = text_blocks(corpus, tokenizer, block_size=BLOCK_SIZE)
    assert blocks.words is not None
    assert all(words[0] == words[-1] == -1 and (words[1:-1] >= 0).all() for words in blocks.words)
    silent = dataclasses.replace(blocks, words=None)
    with pytest.raises(CorpusError, match="use masking pll"):
        Questions(
            scoring="masked",
            options=ScoringOptions(masking="pll-word-l2r"),
            blocks=silent,
            tokenizer=tokenizer,
            seed=0,
            fingerprint=corpus.fingerprint,
        ).require_answerable()


def test_masking_is_refused_where_nothing_is_masked() -> None:
    ScoringOptions(masking="pll").require_suits("masked", label="bert")
    ScoringOptions().require_suits("causal", label="gpt2")
    with pytest.raises(PolicyError, match="nothing for gpt2, which is scored causal: leave"):
        ScoringOptions(masking="pll").require_suits("causal", label="gpt2")


REAL = {
    "rxnfp-bert-mlm": "CCO.CC(=O)O>>CCOC(C)=O",
    "rxnmapper-albert-mlm": "CCO.CC(=O)O>>CCOC(C)=O",
    "sapiens-roberta-vl": "DIQMTQSPSSLSASVG",
}


@pytest.mark.parametrize("name", REAL)
def test_pseudo_log_likelihoods_of_real_checkpoints_are_as_published(
    name: str, tmp_path: Path
) -> None:
    """PLL(W) = Σ log P(w_t | W without t), specials not scored (Salazar et al. 2020).

    Kauf & Ivanova (2023) hide the later tokens of the same word as well.
    """
    text, folder = REAL[name], shared_model(name)
    (tmp_path / "text.csv").write_text(f'text\n"{text}"\n')
    corpus = load_corpus(f"{tmp_path / 'text.csv'}:text")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoding = tokenizer(text)
    ids, words = encoding["input_ids"], encoding.word_ids()
    inside = [place for place, word in enumerate(words) if word is not None]
    blocks = text_blocks(corpus, tokenizer)

    for masking in ("pll", "pll-word-l2r"):
        expected = 0.0
        for target in inside:
            later = [p for p in inside if p > target and words[p] == words[target]]
            shown = torch.tensor([ids])
            shown[0, [target, *(later if masking == "pll-word-l2r" else [])]] = (
                tokenizer.mask_token_id
            )
            with torch.no_grad():
                logits = model(input_ids=shown).logits[0, target].double()
            expected += float(torch.log_softmax(logits, -1)[ids[target]])
        rows = Questions(
            scoring="masked",
            options=ScoringOptions(masking=masking),
            blocks=blocks,
            tokenizer=tokenizer,
            seed=0,
            fingerprint=corpus.fingerprint,
        ).rows(0)
        scorer = Scorer(model, pad_id=tokenizer.pad_token_id)
        found = -sum(float(scorer.nll_nats([row])[0]) for row in rows)
        assert len(rows) == len(inside)
        assert found == pytest.approx(expected, rel=1e-5)
