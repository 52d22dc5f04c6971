"""The benchmark that fine-tunes and writes the paper's table, on a tiny model and tiny files."""

import json
from pathlib import Path

import pytest

from tests.checkpoint_folders import save_checkpoint, tiny_model, tiny_tokenizer
from tests.plugin_support import run_python
from tests.task_stubs import HIDDEN_SIZE, VOCABULARY, classified, plant, sentences

ROOT = Path(__file__).resolve().parents[1]


def _data(root: Path) -> Path:
    rows = classified(96)
    sst2, stsb = root / "SST-2", root / "STS-B"
    for folder in (sst2, stsb):
        folder.mkdir(parents=True)
    for name in ("train-head.tsv", "dev.tsv"):
        lines = [f"{text} \t{label}" for text, label in rows]
        (sst2 / name).write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    texts = [" ".join(words) for words in sentences(96)]
    for name in ("train.tsv", "dev.tsv"):
        pairs = zip(texts, [*texts[1:], texts[0]], strict=True)
        lines = [f"{one}\t{two}\t{n % 6}.0" for n, (one, two) in enumerate(pairs)]
        (stsb / name).write_text("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n")
    return root


@pytest.mark.slow
def test_the_table_is_written_and_a_second_run_does_nothing_again(tmp_path: Path) -> None:
    model = tiny_model(
        "BertModel", vocab_size=VOCABULARY, hidden_size=HIDDEN_SIZE, max_position_embeddings=130
    )
    plant(model)
    folder = save_checkpoint(tmp_path / "base", model, tiny_tokenizer(VOCABULARY))
    data = _data(tmp_path / "glue")
    options = (
        str(ROOT / "benchmarks" / "glue.py"), f"--model={folder}", f"--data={data}",
        "--tasks=sst2,stsb", "--epochs=1", "--limit=64", "--draws=3", "--out=out",
    )  # fmt: skip
    first = run_python(tmp_path, *options)
    assert first.ret == 0
    report = json.loads((tmp_path / "out" / "glue.json").read_text())
    table = (tmp_path / "out" / "glue.md").read_text()
    sst2, stsb = report["rows"]
    assert (sst2["metric"], stsb["metric"]) == ("accuracy", "spearman")
    assert sst2["dims"] == sst2["dims_before"] == [7]
    assert len(sst2["random"]) == 3
    assert sst2["train_examples"] == 64
    assert sst2["joint"] == sst2["alone"]["7"]
    assert "Not comparable with published numbers: only 64 training examples" in table
    assert "| sst2 | accuracy (96) | 7 | 7 |" in table
    weights = tmp_path / "out" / "sst2" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    again = run_python(tmp_path, *options)
    assert again.ret == 0
    assert weights.stat().st_mtime_ns == written
    assert json.loads((tmp_path / "out" / "glue.json").read_text()) == report
