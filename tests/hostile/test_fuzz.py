"""Every reader, on real files with something wrong in them.

Whatever a file holds, its reader returns something valid or raises a RobustnessError of one
printable line: no other exception, no terminal escapes, no gigabytes, no minutes. A run tries 4,590
inputs; ``--run-slow`` tries 20 times as many, 91,800, on top of them.
"""

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from robustness.errors import RobustnessError
from tests.support.checkpoints.spoilt_checkpoints import (
    accounted_tensors,
    adapter_json,
    config_json,
    gguf_bytes,
    gguf_parts,
    gguf_settings,
    gguf_tokenizer_keys,
    pickled_weights,
    safetensors_bytes,
    safetensors_header,
    shard_index,
    tokenizer_file,
)
from tests.support.checkpoints.spoilt_sentencepiece import LLAMA, T5, sentencepiece_file
from tests.support.records.mutations import Arrange
from tests.support.records.spoilt_records import (
    plan_of_a_run,
    remembered_facts,
    remembered_hash,
    report_of_a_shard,
    sealed_report_of_a_shard,
    store_record,
)
from tests.support.records.spoilt_texts import (
    JSON_LINES,
    corpus_bytes,
    corpus_json,
    corpus_parquet,
    policy_toml,
)

SLOW_FACTOR = 20
MOST_SECONDS = 10.0
"""For one input, on a busy machine; what one takes is milliseconds."""
MOST_BYTES = 1_500_000_000
"""By which all inputs to one reader may raise the peak of this process's memory."""

READERS: dict[str, tuple[int, Arrange]] = {
    "safetensors header": (300, safetensors_header),
    "safetensors file": (200, safetensors_bytes),
    "index of shards": (100, shard_index),
    "GGUF": (300, gguf_bytes),
    "GGUF tokenizer": (200, gguf_tokenizer_keys),
    "pickled weights": (50, pickled_weights(zipped=False)),
    "pickled weights, zipped": (50, pickled_weights(zipped=True)),
    "adapter_config.json": (100, adapter_json),
    "accounted tensors": (100, accounted_tensors),
    "GGUF in parts": (100, gguf_parts),
    "GGUF settings": (200, gguf_settings),
    "config.json": (150, config_json),
    "tokenizer.json": (100, tokenizer_file("tokenizer.json")),
    "tokenizer_config.json": (100, tokenizer_file("tokenizer_config.json")),
    "spiece.model": (100, sentencepiece_file("spiece.model", "t5", **T5)),
    "tokenizer.model": (100, sentencepiece_file("tokenizer.model", "llama", **LLAMA)),
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
    tox = (Path(__file__).parents[2] / "tox.ini").read_text("utf-8")
    assert f"; {SLOW_FACTOR * total:,} spoilt inputs" in tox


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
