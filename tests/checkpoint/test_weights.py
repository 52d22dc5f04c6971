import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from robustness.checkpoint.conversions.float32 import float32_folder
from robustness.checkpoint.weights import (
    INDEX_FILE,
    SINGLE_FILE,
    read_header,
    read_json,
    read_tensors,
    surplus_notes,
)
from robustness.errors import CheckpointError
from robustness.store.files import recall, remember, write_atomically
from robustness.store.hashing import file_sha256
from tests.support.checkpoints.checkpoint_folders import write_safetensors


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def write_shards(folder: Path, weight_map: dict[str, str]) -> None:
    for shard in {"a.safetensors", "b.safetensors"}:
        name = shard.partition(".")[0]
        save_file({name: torch.ones(2)}, folder / shard)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


def test_a_file_of_the_library_itself_is_read(tmp_path: Path) -> None:
    tensors = {
        "x": torch.ones(2, 3),
        "half": torch.ones(5, dtype=torch.bfloat16),
        "none": torch.ones(0, 4),
        "scalar": torch.tensor(1),
        "eight": torch.ones(3).to(torch.float8_e4m3fn),
        "flag": torch.tensor([True]),
    }
    save_file(tensors, tmp_path / SINGLE_FILE, metadata={"format": "pt"})
    found = read_tensors(tmp_path)
    assert {name: info.shape for name, info in found.items()} == {
        name: tuple(value.shape) for name, value in tensors.items()
    }
    assert found["half"].dtype == "BF16"


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"x": entry(0, 8, [2])}, b"1234", "is truncated: its header promises 8 bytes"),
        ({"x": entry(0, 8, [2])}, b"123456789", "1 bytes at its end belong to no tensor"),
        ({"x": entry(0, 8, [2]), "y": entry(4, 12, [2])}, b"0" * 12, "overlaps"),
        ({"x": entry(0, 8, [2]), "y": entry(12, 20, [2])}, b"0" * 20, "leaves a gap"),
        ({"x": entry(0, 8, [3])}, b"0" * 8, "cannot fill 8 bytes"),
        ({"x": entry(0, 8, [2], "F33")}, b"0" * 8, "unknown dtype"),
        ({"x": entry(0, 8, [-2])}, b"0" * 8, "impossible shape"),
        ({"x": entry(0, 8, [True, 2])}, b"0" * 8, "impossible shape"),
        ({"x": entry(8, 0, [2])}, b"0" * 8, "impossible offsets"),
        ({"x": {"dtype": "F32"}}, b"", "impossible shape"),
        ({"x": 1}, b"", "no description"),
        ({"x": entry(0, 4 * 10**13, [10**13])}, b"", "is truncated"),
        ([1], b"", "not a JSON object"),
        (b"{", b"", "not valid JSON"),
        (b"\xff", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b'{"x": 1, "x": 2}', b"", "twice"),
    ],
)
def test_a_damaged_or_hostile_header_is_refused(
    header: Any, data: bytes, message: str, tmp_path: Path
) -> None:
    file = write_safetensors(tmp_path / SINGLE_FILE, header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(file)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"1234", "truncated"),
        (struct.pack("<Q", 100) + b"{}", "truncated: it promises a header of 100 bytes"),
        (struct.pack("<Q", 2**63) + b"{}", "no safetensors file"),
    ],
)
def test_an_impossible_header_length_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / SINGLE_FILE
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_header(file)


def test_shards_are_read_through_the_index(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "a.safetensors", "b": "b.safetensors"})
    tensors = read_tensors(tmp_path)
    assert {name: info.file.name for name, info in tensors.items()} == {
        "a": "a.safetensors",
        "b": "b.safetensors",
    }


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../a.safetensors"}, "outside its folder"),
        ({"a": "/etc/a.safetensors"}, "outside its folder"),
        ({"a": "..\\a.safetensors"}, "outside its folder"),
        ({"a": ".."}, "outside its folder"),
        ({"a": "pytorch_model.bin"}, "no safetensors file"),
        ({"a": "c.safetensors"}, "is incomplete"),
        ({"a": "b.safetensors", "b": "b.safetensors"}, "does not hold it"),
        ({}, "no 'weight_map'"),
    ],
)
def test_a_wrong_index_is_refused(weight_map: dict[str, str], message: str, tmp_path: Path) -> None:
    write_shards(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path)


def test_what_no_index_names_and_files_that_nobody_reads_are_noted(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "a.safetensors", "b": "b.safetensors"})
    assert surplus_notes(tmp_path, read_tensors(tmp_path)) == []
    save_file({"b": torch.ones(2), "c": torch.ones(2)}, tmp_path / "b.safetensors")
    save_file({"d": torch.ones(2)}, tmp_path / "consolidated.safetensors")
    tensors = read_tensors(tmp_path)
    assert surplus_notes(tmp_path, tensors) == [
        "not read: consolidated.safetensors, beside the checkpoint's own files",
        "model.safetensors.index.json does not name c, which its shards hold",
    ]
    assert tensors.keys() == {"a", "b", "c"}
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (note,) = surplus_notes(tmp_path, read_tensors(tmp_path))
    assert note.startswith("not read: a.safetensors and 2 more")


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "a.safetensors", "b": "b.safetensors"})
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="and again in"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "may run code"),
        ("model.gguf", "give the file itself"),
        ("notes.txt", "has no safetensors weights"),
        ("shard-00000-model-00000-of-00001.safetensors", "distributed"),
    ],
)
def test_a_folder_without_usable_weights_is_explained(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path)


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_bytes(b"one")
    os.utime(file, (1, 1))
    first = file_sha256(file, memory=memory)
    (record,) = memory.iterdir()
    # The same path, size, times and inode: the memory is believed, whatever it says.
    facts = recall(record)
    assert facts is not None
    assert facts["sha256"] == first
    remember(record, {**facts, "sha256": "0" * 64})
    assert file_sha256(file, memory=memory) == "0" * 64
    with file.open("r+b") as stream:
        stream.write(b"two")
    os.utime(file, (2, 2))
    second = file_sha256(file, memory=memory)
    assert second != first
    record.write_text("{damaged")
    assert file_sha256(file, memory=memory) == second
    write_atomically(record, json.dumps([1]))
    assert file_sha256(file, memory=memory) == second


def test_the_hash_of_a_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_bytes(b"one")
    file_sha256(file, memory=memory)
    assert not memory.exists()


def test_a_hub_blob_carries_its_hash(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.write_bytes(b"never read")
    link = tmp_path / SINGLE_FILE
    link.symlink_to(blob)
    assert file_sha256(link, memory=None) == "ab" * 32


def test_a_file_that_cannot_be_hashed_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        file_sha256(tmp_path / "missing", memory=None)


def test_json_of_an_absurd_size_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}" + " " * 1000)
    with pytest.raises(CheckpointError, match="far more"):
        read_json(file, max_bytes=100)


def test_other_precisions_are_converted_to_float32_once(tmp_path: Path) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    tensors = {
        "bf16": torch.randn(3, 4).to(torch.bfloat16),
        "f16": torch.randn(5).to(torch.float16),
        "f64": torch.randn(2, dtype=torch.float64),
        "f32": torch.randn(2),
        "ids": torch.arange(7),
        "flags": torch.tensor([True, False]),
    }
    save_file(tensors, folder / SINGLE_FILE)
    said: list[str] = []
    for _ in range(2):
        converted = float32_folder(
            folder,
            read_tensors(folder),
            weights_hash="h" * 64,
            cache=cache,
            progress=said.append,
        )
    assert said == ["converting model to float32, once"]
    assert sorted(path.name for path in (cache / "float32").iterdir() if path.is_dir()) == [
        "h" * 32
    ]
    from safetensors.torch import load_file

    loaded = load_file(converted / SINGLE_FILE)
    assert read_tensors(converted).keys() == tensors.keys()
    for name, value in tensors.items():
        expected = value.to(torch.float32) if value.is_floating_point() else value
        assert torch.equal(loaded[name], expected)
        assert loaded[name].dtype == expected.dtype


def test_float32_files_are_used_as_they_are(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / SINGLE_FILE)
    tensors = read_tensors(tmp_path)
    folder = float32_folder(tmp_path, tensors, weights_hash="h", cache=tmp_path / "cache")
    assert folder == tmp_path


def test_eight_bit_files_are_left_to_transformers(tmp_path: Path) -> None:
    save_file(
        {"x": torch.ones(2).to(torch.float8_e4m3fn), "scale": torch.ones(1).half()},
        tmp_path / SINGLE_FILE,
    )
    tensors = read_tensors(tmp_path)
    folder = float32_folder(tmp_path, tensors, weights_hash="h", cache=tmp_path / "cache")
    assert folder == tmp_path
