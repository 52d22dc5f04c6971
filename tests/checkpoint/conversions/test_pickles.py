"""Pickled weights: read where the user allows it, by a process that can do nothing else."""

import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from robustness.checkpoint.checkpoint import Checkpoint
from robustness.checkpoint.conversions import unpickling
from robustness.checkpoint.reading import ReadOptions
from robustness.checkpoint.resolving import resolve
from robustness.checkpoint.weights import read_header
from robustness.errors import CheckpointError
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model

ALLOWED = ReadOptions(allow_pickle=True)
STOCK = "pytorch_model.bin"


def pickled(folder: Path, value: Any, **options: Any) -> Path:
    """A checkpoint whose weights are only in a pickle."""
    save_checkpoint(folder, tiny_model())
    (folder / "model.safetensors").unlink()
    torch.save(value, folder / STOCK, **options)
    return folder


def values_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load_model().state_dict())


def test_a_pickle_is_refused_by_default_with_the_option_that_reads_it(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "tiny", tiny_model().state_dict())
    with pytest.raises(CheckpointError, match=r"--robustness-allow-pickle .* process of its own"):
        resolve(str(folder), cache=tmp_path / "store")


def test_a_pickle_gives_the_model_that_was_saved_and_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    folder = pickled(tmp_path / "tiny", model.state_dict())
    checkpoint = resolve(str(folder), cache=tmp_path / "store", options=ALLOWED)
    assert checkpoint.note == "its weights are pickled, and were converted"
    found = values_of(checkpoint)
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name
    safe = save_checkpoint(tmp_path / "safe", model)
    assert resolve(str(safe), cache=tmp_path / "store").config_hash == checkpoint.config_hash
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("it was read again"))
    assert resolve(str(folder), cache=tmp_path / "store", options=ALLOWED) == checkpoint


@pytest.mark.slow
def test_shards_are_read_one_by_one_and_must_hold_what_the_index_promises(tmp_path: Path) -> None:
    model = tiny_model()
    folder = pickled(tmp_path / "tiny", {})
    (folder / STOCK).unlink()
    state = model.state_dict()
    names = {name: f"pytorch_model-0000{1 + (n > 9)}-of-00002.bin" for n, name in enumerate(state)}
    for shard in set(names.values()):
        part = {name: state[name] for name in state if names[name] == shard}
        torch.save(
            part, folder / shard, _use_new_zipfile_serialization=shard.endswith("1-of-00002.bin")
        )
    index = folder / f"{STOCK}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    found = values_of(resolve(str(folder), cache=tmp_path / "store", options=ALLOWED))
    assert all(torch.equal(found[name], state[name]) for name in state)
    first = next(iter(names))
    index.write_text(json.dumps({"weight_map": {**names, "no.such": names[first]}}))
    with pytest.raises(CheckpointError, match=r"promises the tensor 'no\.such' in .*00001-of"):
        resolve(str(folder), cache=tmp_path / "store", options=ALLOWED)
    index.write_text(json.dumps({"weight_map": {first: f"../{names[first]}"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        resolve(str(folder), cache=tmp_path / "store", options=ALLOWED)


# --- what the process does, in this one: it takes seconds to start ------------------------------


def converted(value: Any, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    torch.save(value, folder / STOCK, **options)
    unpickling.convert(folder / STOCK, folder / "out.safetensors")
    read_header(folder / "out.safetensors")
    return load_file(folder / "out.safetensors")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


@pytest.mark.parametrize("zipped", [True, False])
def test_every_kind_of_number_arrives_as_it_is(tmp_path: Path, *, zipped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(3, 4, generator=generator)
    tensors = {
        "transposed": wide.T,
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "flags": wide > 0,
        "parameter": torch.nn.Parameter(wide),
        **{str(dtype): wide.to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)},
    }
    if zipped:  # the older form has no name for these
        tensors["eight bits"] = wide.to(torch.float8_e4m3fn)
    found = converted(OrderedDict(tensors), tmp_path, _use_new_zipfile_serialization=zipped)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(_bits(found[name]), _bits(tensor))


def test_tensors_that_share_numbers_are_each_written(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    found = converted({"a": table, "b": table, "row": table[1]}, tmp_path)
    assert torch.equal(found["a"], table)
    assert torch.equal(found["b"], table)
    assert torch.equal(found["row"], table[1])


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, (f"{sys.executable} -c 'print(1)'",)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": Hostile()}, r"asks for (posix|nt)\.system"),
        ({"a": Path("/")}, r"asks for pathlib\.\w+"),
        ([torch.zeros(2)], "holds a list, not a table of tensors"),
        ({"a": 1}, "'a' is a int, not a tensor"),
        ({"model": {"a": torch.zeros(2)}}, "'model' is a dict, not a tensor"),
        ({3: torch.zeros(2)}, "3 is no name of a tensor"),
        ({"__metadata__": torch.zeros(2)}, "'__metadata__' is no name"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "'a' is a tensor of a kind"),
        ({"a": torch.zeros(2).to_sparse()}, "'a' is a tensor of a kind"),
        ({"a": torch.zeros(1).expand(10**9, 10**6)}, "far more than the file has"),
    ],
)
def test_anything_but_plain_tensors_is_refused(value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        converted(value, tmp_path)


def test_a_truncated_or_a_compressed_file_is_refused_or_read_right(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"a": torch.arange(4000.0)}, whole)
    source, target = tmp_path / STOCK, tmp_path / "out.safetensors"
    for length in (0, 1, 100, len(whole.getvalue()) // 2, len(whole.getvalue()) - 1):
        source.write_bytes(whole.getvalue()[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            unpickling.convert(source, target)
    with (
        zipfile.ZipFile(whole) as stored,
        zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in stored.namelist():
            new.writestr(name, stored.read(name))
    unpickling.convert(source, target)
    from safetensors.torch import load_file

    assert torch.equal(load_file(target)["a"], torch.arange(4000.0))


def test_the_network_is_left_and_memory_bound_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    source, target = tmp_path / STOCK, tmp_path / "out.safetensors"
    source.write_bytes(b"seven!!")
    monkeypatch.setattr(unpickling, "_leave_the_network", lambda: done.append("network"))
    monkeypatch.setattr(unpickling, "_bound", lambda n_bytes: done.append(("bound", n_bytes)))
    monkeypatch.setattr(unpickling, "convert", lambda *files: done.append(files))
    assert unpickling.main(source, target) == 0
    assert done == ["network", ("bound", 7), (source, target)]


def test_the_process_is_told_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment it gets what SECURITY.md lists, and no home to look for tokens in."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    given: dict[str, str] = {}

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> Any:
        given.update(env)
        unpickling.convert(Path(command[-2]), Path(command[-1]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("robustness.checkpoint.conversions.pickles.subprocess.run", run)
    folder = pickled(tmp_path / "tiny", tiny_model().state_dict())
    resolve(str(folder), cache=tmp_path / "store", options=ALLOWED)
    security = (Path(__file__).parents[3] / "SECURITY.md").read_text("utf-8")
    assert [name for name in given if f"`{name}`" not in security] == []
    assert "secret" not in given.values()
    assert Path(given["HOME"]).is_relative_to(tmp_path / "store")


# --- the process itself ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hostile_pickle_is_one_sentence_and_nothing_of_it_runs(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "tiny", {"a": Hostile()})
    with pytest.raises(CheckpointError, match=r"cannot be read as weights \(it asks for .*system"):
        resolve(str(folder), cache=tmp_path / "store", options=ALLOWED)
    assert list((tmp_path / "store" / "pickle").glob("[!.]*/")) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")
def test_a_bomb_meets_the_bound_on_memory(tmp_path: Path) -> None:
    """Half a gigabyte of zeros, which a compressed file holds in few megabytes."""
    folder = pickled(tmp_path / "tiny", {})
    plain = tmp_path / "plain.bin"
    torch.save({"a": torch.zeros(2**27)}, plain)
    bomb = zipfile.ZipFile(folder / STOCK, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with zipfile.ZipFile(plain) as stored, bomb:
        for name in stored.namelist():
            with stored.open(name) as source, bomb.open(name, "w", force_zip64=True) as target:
                while part := source.read(2**24):
                    target.write(part)
    plain.unlink()
    with pytest.raises(CheckpointError, match="more memory than a file of its size"):
        resolve(str(folder), cache=tmp_path / "store", options=ALLOWED)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux'")
def test_the_process_has_left_the_network() -> None:
    """Where the kernel lets it: a listening socket of this process is out of its reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = (
            "import os, socket, sys\n"
            "from robustness.checkpoint.conversions import unpickling\n"
            "namespaces = '/proc/self/ns/net'\n"
            "before = os.readlink(namespaces)\n"
            "unpickling._leave_the_network()\n"
            "if os.readlink(namespaces) == before: sys.exit(3)\n"
            f"socket.create_connection(('127.0.0.1', {port}), timeout=5)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
    if run.returncode == 3:
        pytest.skip("this kernel allows no namespaces to this user")
    assert "Network is unreachable" in run.stderr
    assert run.returncode == 1
