"""The benchmark between checkpoints: what it does to weights, and the whole of it, small."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.checkpoints.checkpoint_folders import tiny_model
from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf
from tests.support.checkpoints.shared import shared_data, shared_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def between() -> Iterator[Any]:
    """The script as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import between

        yield between
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_weights_are_changed_as_it_says(between: Any) -> None:
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    for bits in (4, 8):
        found = between.rounded(weight, bits)
        for row, before in zip(found.tolist(), weight.tolist(), strict=True):
            step = max(map(abs, before)) / (2 ** (bits - 1) - 1)
            assert all(abs(a - b) <= step / 2 + 1e-6 for a, b in zip(row, before, strict=True))
            assert all(abs(a / step - round(a / step)) < 1e-4 for a in row)
    kept = between.pruned(weight, 0.3)
    gone = sorted(weight.abs().flatten().tolist())[: int(0.3 * weight.numel())]
    assert sorted(weight[kept == 0].abs().tolist()) == gone
    assert torch.equal(kept[kept != 0], weight[kept != 0])
    sparse = between.two_of_four(weight)
    for row, before in zip(sparse.tolist(), weight.tolist(), strict=True):
        for start in range(0, 16, 4):
            four, all_four = row[start : start + 4], before[start : start + 4]
            largest = sorted(all_four, key=abs)[2:]
            assert sorted(value for value in four if value) == sorted(largest)


def test_a_spherical_mean_keeps_the_length_of_equally_long_tensors(between: Any) -> None:
    one, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[-4.0, 3.0]])
    found = between.spherical(one, other)
    assert float(found.norm()) == pytest.approx(5)
    assert torch.allclose(found, (one + other) / 2**0.5)
    assert torch.allclose(between.spherical(one, one), one)


def test_a_gguf_file_is_written_in_another_quantisation(between: Any, tmp_path: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    llama = tiny_model(
        "LlamaForCausalLM",
        vocab_size=len(TOKENS),
        max_position_embeddings=128,
        hidden_size=32,
        intermediate_size=64,
    )
    source = tmp_path / "model.gguf"
    write_llama_gguf(source, llama)
    target = between.requantised(source, tmp_path / "again.gguf", "Q8_0")
    before, after = GGUFReader(source), GGUFReader(target)
    assert {f.name for f in before.fields.values()} == {f.name for f in after.fields.values()}
    for one, other in zip(before.tensors, after.tensors, strict=True):
        assert one.name == other.name
        found = dequantize(other.data, other.tensor_type)
        values = dequantize(one.data, one.tensor_type)
        assert found.shape == values.shape
        assert np.abs(found - values).max() <= np.abs(values).max() / 100


@pytest.mark.slow
def test_the_table_of_a_real_checkpoint(
    between: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared_model("sapiens-roberta-vl")
    shared = shared_data("antibody-light.fa").parents[1]
    arguments = [f"--shared={shared}", f"--work={tmp_path}", "--text-blocks=16", "--steps=2"]
    monkeypatch.setattr(sys, "argv", ["between.py", "--part=sapiens", *arguments])
    between.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [cell[0] for cell in cells][:5] == [
        "itself", "8 bits", "4 bits", "30 % pruned", "2:4 pruned"
    ]  # fmt: skip
    itself = cells[0]
    assert (itself[3], itself[6], itself[8]) == ("92, 112 → 92, 112", "1", "same (0)")
    assert json.loads((tmp_path / "base-light-16.json").read_text())["checkpoints"]
