"""Every reader, on real files with something wrong in them.

Whatever a file holds, its reader returns something valid or raises a RobustnessError of one
printable line: no other exception, no terminal escapes, no gigabytes, no minutes. A run tries 3,590
inputs; ``--run-slow`` tries 20 times as many, 71,800, on top of them.
"""

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import processors

from robustness.blocks import text_blocks
from robustness.checkpoint import Checkpoint, resolve
from robustness.corpus import Corpus, load_corpus
from robustness.errors import RobustnessError
from robustness.gguf_file import read_gguf_header
from robustness.hashing import file_sha256
from robustness.plan import RunPlan
from robustness.policy import Settings, load_policy
from robustness.report.facts import to_json
from robustness.report.junit import to_junit
from robustness.report.merge import merge, read_shard, sealed
from robustness.shards import Part, take
from robustness.store import Store
from robustness.tokenization import load_tokenizer, verify_tokenizer
from robustness.weights import INDEX_FILE, SINGLE_FILE, read_header, read_tensors
from tests.checkpoint_folders import VOCABULARY, save_checkpoint, tiny_model, tiny_tokenizer
from tests.gguf_files import TOKENS, write_llama_gguf
from tests.mutations import spoilt_bytes, spoilt_json
from tests.plans import plan
from tests.run_reports import shard_facts

SLOW_FACTOR = 20
MOST_SECONDS = 10.0
"""For one input, on a busy machine; what one takes is milliseconds."""
MOST_BYTES = 1_500_000_000
"""By which all inputs to one reader may raise the peak of this process's memory."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A reader and the inputs it gets.

    Attributes:
        file: what is overwritten with them.
        valid: what it holds at first.
        inputs: its contents with something wrong in them.
        read: reads it, and asserts that what it returns is valid.
    """

    file: Path
    valid: bytes
    inputs: st.SearchStrategy[bytes]
    read: Callable[[], object]


Arrange = Callable[[Path], Case]
"""Puts a valid file into an empty folder."""


# --- weights -------------------------------------------------------------------------------------


def split_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def reads_as_the_library_does(file: Path) -> None:
    found = read_header(file)
    assert all(size >= 0 for info in found for size in info.shape)
    if sum(info.n_elements for info in found) == 0:
        return
    with safe_open(file, framework="pt") as library:
        shapes = {name: tuple(library.get_slice(name).get_shape()) for name in library.keys()}  # noqa: SIM118
    assert {info.name: info.shape for info in found} == shapes


def safetensors_header(folder: Path) -> Case:
    file = save_checkpoint(folder) / SINGLE_FILE
    header, data = split_safetensors(file.read_bytes())
    few = {name: header[name] for name in sorted(header)[:6]}
    end = 0
    for name in sorted(few, key=lambda name: few[name].get("data_offsets", [-1])):
        if name != "__metadata__":
            start, stop = few[name]["data_offsets"]
            few[name]["data_offsets"] = [end, end + stop - start]
            end += stop - start

    def with_data(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + data[:end]

    return Case(
        file=file,
        valid=with_data(json.dumps(few).encode()),
        inputs=spoilt_json(few).map(with_data),
        read=lambda: reads_as_the_library_does(file),
    )


def safetensors_bytes(folder: Path) -> Case:
    file = save_checkpoint(folder) / SINGLE_FILE
    content = file.read_bytes()
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    return Case(
        file=file,
        valid=content,
        inputs=st.one_of(spoilt_bytes(content), spoilt_bytes(content, head=header_bytes)),
        read=lambda: reads_as_the_library_does(file),
    )


def shard_index(folder: Path) -> Case:
    save_checkpoint(folder, max_shard_size="10KB")
    file = folder / INDEX_FILE
    content = file.read_bytes()
    inputs = spoilt_json(json.loads(content))

    def read() -> None:
        found = read_tensors(folder)
        assert {info.file.parent for info in found.values()} == {folder}

    return Case(file=file, valid=content, inputs=inputs, read=read)


def gguf_bytes(folder: Path) -> Case:
    model = tiny_model(
        "LlamaForCausalLM", vocab_size=len(TOKENS), num_key_value_heads=1, tie_word_embeddings=True
    )
    folder.mkdir()
    file = write_llama_gguf(folder / "tiny.gguf", model)
    content = file.read_bytes()
    header = len(content) - sum(4 * parameter.numel() for parameter in model.parameters())

    def read() -> None:
        found = read_gguf_header(file)
        assert found.architecture
        assert found.float32_bytes <= 16 * len(content)  # no type has fewer than 2 bits a number

    return Case(
        file=file,
        valid=content,
        inputs=st.one_of(spoilt_bytes(content, head=header), spoilt_bytes(content, head=64)),
        read=read,
    )


# --- the checkpoint around them ------------------------------------------------------------------


def is_whole(folder: Path) -> None:
    checkpoint = resolve(str(folder), cache=folder.parent / "cache")
    assert type(checkpoint.n_parameters) is int
    assert checkpoint.n_parameters > 0
    assert type(checkpoint.vocab_size) is int
    assert Checkpoint.from_dict(json.loads(json.dumps(checkpoint.to_dict()))) == checkpoint
    model = checkpoint.load_model()
    assert all(bool(value.isfinite().all()) for value in model.parameters())


def config_json(folder: Path) -> Case:
    file = save_checkpoint(folder) / "config.json"
    content = file.read_bytes()
    inputs = st.one_of(spoilt_json(json.loads(content)), spoilt_bytes(content))
    return Case(file=file, valid=content, inputs=inputs, read=lambda: is_whole(folder))


def tokenizes(folder: Path, corpus: Corpus) -> None:
    tokenizer = load_tokenizer(folder, what=str(folder))
    verify_tokenizer(tokenizer, rows=VOCABULARY, scoring="masked", what=str(folder))
    blocks = text_blocks(corpus, tokenizer, block_size=16)
    assert blocks.n_blocks > 0
    assert all(0 <= int(row.min()) <= int(row.max()) < VOCABULARY for row in blocks.ids)


def tokenizer_file(name: str) -> Arrange:
    def arrange(folder: Path) -> Case:
        tokenizer = tiny_tokenizer()
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        file = save_checkpoint(folder, tokenizer=tokenizer) / name
        (folder.parent / "words.txt").write_text("w1 w2 w3 " * 50)
        corpus = load_corpus(str(folder.parent / "words.txt"))
        content = file.read_bytes()
        inputs = st.one_of(spoilt_json(json.loads(content)), spoilt_bytes(content))
        return Case(file=file, valid=content, inputs=inputs, read=lambda: tokenizes(folder, corpus))

    return arrange


# --- policy and text -----------------------------------------------------------------------------

POLICY = """
profile = "hardened"
confidence = 0.95
block_size = 64
corpus = "text.csv:column"

[rules.busters]
k = 2.5

[checks.ablation_degrades]
min_ratio = 1.2
enabled = true

[checkpoints."bert-*"]
seed = 3

[checkpoints."bert-*".checks.outliers_are_present]
min = 2
max = 9
"""

ODD_TOML = (
    b"[[checks]]\n",
    b"[checks]\n",
    b"a = " + b"[" * 3000 + b"\n",
    b"seed = " + b"9" * 5000 + b"\n",
    b"seed = nan\n",
    b"seed = 1979-05-27\n",
    b"a.b.c = 1\n",
    b"tool = 1\n",
    b'checkpoints = "x"\n',
    b'"\\u001b[2J" = 1\n',
    b'[checkpoints."\\u001b[2J"]\nsed = 1\n',
)


def policy_toml(folder: Path) -> Case:
    folder.mkdir()
    file = folder / "robustness.toml"
    content = POLICY.encode()
    lines = content.splitlines(keepends=True)
    shuffled = st.lists(st.sampled_from((*lines, *ODD_TOML)), max_size=12).map(b"".join)

    def read() -> None:
        policy = load_policy(file)
        assert 0.5 <= policy.confidence < 1
        found = policy.settings("bert-base", "bert-base")
        assert Settings.model_validate(found.model_dump()) == found
        policy.require_overrides_match(["bert-base"], ["bert-base"])

    inputs = st.one_of(spoilt_bytes(content), shuffled)
    return Case(file=file, valid=content, inputs=inputs, read=read)


def is_text(reference: str) -> None:
    corpus = load_corpus(reference)
    assert corpus.texts
    assert all(type(text) is str and text.strip() for text in corpus.texts)
    assert re.fullmatch("[0-9a-f]{64}", corpus.fingerprint)
    assert corpus.description.isprintable()


ROWS = [{"text": f"w1 w{n} ä", "id": "7", "\x1b[2J": None} for n in range(4)]
JSON_LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS)


def corpus_bytes(name: str, content: bytes) -> Arrange:
    def arrange(folder: Path) -> Case:
        folder.mkdir()
        file = folder / name.partition(":")[0]
        return Case(
            file=file,
            valid=content,
            inputs=spoilt_bytes(content),
            read=lambda: is_text(str(folder / name)),
        )

    return arrange


def corpus_json(name: str) -> Arrange:
    def arrange(folder: Path) -> Case:
        folder.mkdir()
        value: Any = {"text": ["a", "b"], "id": ["1", None]} if "columns" in name else ROWS
        return Case(
            file=folder / name,
            valid=json.dumps(value).encode(),
            inputs=spoilt_json(value),
            read=lambda: is_text(f"{folder / name}:text"),
        )

    return arrange


def corpus_parquet(folder: Path) -> Case:
    folder.mkdir()
    file = folder / "a.parquet"
    Dataset.from_list([{"text": f"w{n}"} for n in range(40)]).to_parquet(file)
    content = file.read_bytes()
    inputs = spoilt_bytes(content)
    return Case(file=file, valid=content, inputs=inputs, read=lambda: is_text(f"{file}:text"))


# --- what earlier runs have left -----------------------------------------------------------------

RECORD = {"nll_nats": [1.5, 2.25, float("inf")], "tokens": [19, 18, 19]}


def store_record(folder: Path) -> Case:
    key = {"chunk": 3, "id": "null"}
    Store(folder, {"weights": "w"}).write(key, RECORD)
    (file,) = [path for path in folder.rglob("*.json") if len(path.stem) == 64]
    content = file.read_bytes()

    def read() -> None:
        assert Store(folder, {"weights": "w"}).read(key) in (None, RECORD)

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


def remembered_hash(folder: Path) -> Case:
    folder.mkdir()
    hashed = folder / "file"
    hashed.write_text("content")
    os.utime(hashed, (1e9, 1e9))
    right = file_sha256(hashed, memory=folder / "memory")
    (file,) = (folder / "memory").iterdir()
    content = file.read_bytes()

    def read() -> None:
        assert file_sha256(hashed, memory=folder / "memory") == right

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


def remembered_facts(folder: Path) -> Case:
    save_checkpoint(folder / "tiny")
    right = resolve(str(folder / "tiny"), cache=folder / "cache")
    (file,) = (folder / "cache" / "checkpoints").iterdir()
    content = file.read_bytes()

    def read() -> None:
        assert resolve(str(folder / "tiny"), cache=folder / "cache") == right

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


# --- what processes and machines hand to each other ----------------------------------------------


def plan_of_a_run(folder: Path) -> Case:
    folder.mkdir()
    file = folder / "plan.json"
    right = take(plan("a", "b"), Part(index=1, count=2))
    content = right.to_json().encode()

    def read() -> None:
        text = file.read_bytes().decode("utf-8", errors="surrogateescape")
        assert RunPlan.from_json(text) == right

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


def report_of_a_shard(folder: Path) -> Case:
    folder.mkdir()
    file = folder / "report.json"
    right = shard_facts()
    content = json.dumps(sealed(right)).encode()

    def read() -> None:
        assert read_shard(file) == right

    inputs = st.one_of(spoilt_bytes(content), spoilt_json(json.loads(content)))
    return Case(file=file, valid=content, inputs=inputs, read=read)


def sealed_report_of_a_shard(folder: Path) -> Case:
    """Somebody else's program wrote it: the checksum is right, and the rest need not be."""
    folder.mkdir()
    file = folder / "report.json"
    right = shard_facts()

    def seal(text: bytes) -> bytes:
        try:
            return json.dumps(sealed(json.loads(text))).encode()
        except (TypeError, ValueError, RecursionError):
            return text

    def read() -> None:
        facts = merge([read_shard(file)], [str(file)])
        assert facts["passed"] in (True, False)
        assert json.loads(to_json(facts))["passed"] == facts["passed"]
        assert to_junit(facts)

    return Case(
        file=file,
        valid=json.dumps(sealed(right)).encode(),
        inputs=spoilt_json(right).map(seal),
        read=read,
    )


# --- all of them ---------------------------------------------------------------------------------

READERS: dict[str, tuple[int, Arrange]] = {
    "safetensors header": (300, safetensors_header),
    "safetensors file": (200, safetensors_bytes),
    "index of shards": (100, shard_index),
    "GGUF": (300, gguf_bytes),
    "config.json": (150, config_json),
    "tokenizer.json": (100, tokenizer_file("tokenizer.json")),
    "tokenizer_config.json": (100, tokenizer_file("tokenizer_config.json")),
    "policy": (400, policy_toml),
    "running text": (100, corpus_bytes("a.txt", "one ä\ntwo\r\nthree".encode())),
    "CSV": (150, corpus_bytes("a.csv:text", b'text,id\n"a, ""b""",1\nc,2\n')),
    "TSV": (100, corpus_bytes("a.tsv:text", b"id\ttext\n1\ta\n2\tb\n")),
    "FASTA": (20, corpus_bytes("a.fa", b">one\nACDE\nFG\n>two\nHIK\n")),
    "JSON lines": (100, corpus_bytes("a.jsonl:text", JSON_LINES.encode())),
    "JSON records": (100, corpus_json("records.json")),
    "JSON columns": (100, corpus_json("columns.json")),
    "parquet": (20, corpus_parquet),
    "record of the store": (300, store_record),
    "remembered hash": (150, remembered_hash),
    "remembered facts": (50, remembered_facts),
    "plan of a run": (300, plan_of_a_run),
    "report of a shard": (150, report_of_a_shard),
    "sealed report of a shard": (300, sealed_report_of_a_shard),
}
"""How many inputs a run tries, and how a reader gets them."""


def test_the_number_of_inputs_is_as_stated() -> None:
    total = sum(n for n, _ in READERS.values())
    assert f"A run tries {total:,}\n" in str(__doc__)
    assert f"{SLOW_FACTOR} times as many, {SLOW_FACTOR * total:,}," in str(__doc__)


@pytest.fixture(autouse=True)
def _modest() -> Iterator[None]:
    """Fails where reading took gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    unit = 1 if sys.platform == "darwin" else 1024
    grown = unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < MOST_BYTES


@pytest.mark.parametrize("factor", [1, pytest.param(SLOW_FACTOR, marks=pytest.mark.long)])
@pytest.mark.parametrize(("n", "arrange"), READERS.values(), ids=READERS.keys())
def test_a_reader_returns_what_is_valid_or_one_sentence(
    n: int, arrange: Arrange, factor: int, tmp_path: Path
) -> None:
    case = arrange(tmp_path / "it")
    case.file.write_bytes(case.valid)
    case.read()
    tried = 0

    @settings(
        max_examples=n * factor,
        deadline=None,
        derandomize=factor == 1,  # a run says the same of the same code; the slow ones look further
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(content=case.inputs)
    def try_it(content: bytes) -> None:
        nonlocal tried
        tried += 1
        case.file.write_bytes(content)
        started = time.monotonic()
        message = "no error at all"
        try:
            case.read()
        except RobustnessError as error:
            message = str(error)
        assert message.isprintable()
        assert 10 < len(message) < 2500
        assert time.monotonic() - started < MOST_SECONDS

    try_it()
    assert tried >= n * factor
