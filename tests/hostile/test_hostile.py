"""Checkpoints made to run code, to exhaust the machine, to reach other files, or to forge reports.

Damaged headers are in test_weights.py and test_gguf.py, mutations of all files in test_fuzz.py.
"""

import json
import os
import pickle
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from robustness.checkpoint.gguf.header import read_gguf_header
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support.checkpoints import checkpoint_folders
from tests.support.checkpoints.checkpoint_folders import (
    edit_config,
    hub_cache,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
    write_safetensors,
)
from tests.support.plugin.plugin_support import (
    DIM,
    LABEL,
    Stubs,
    run_suite,
    save_stub,
    text_of,
)

cache = checkpoint_folders.cache
folder = checkpoint_folders.folder


# --- code ----------------------------------------------------------------------------------------

IMPORTED_BY_NAME = ("sitecustomize", "usercustomize", "torch", "transformers", "robustness", "evil")
"""Modules that Python or we import, and that would win if the folder were on sys.path."""


class _Payload:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (open, (str(self.mark), "a"))


def booby_trap(folder: Path, mark: Path) -> None:
    """Everything by which a folder has ever made somebody's tools run code out of it."""
    code = f"open({str(mark)!r}, 'a').write(__name__)\n"
    for name in IMPORTED_BY_NAME:
        (folder / f"{name}.py").write_text(code)
    (folder / "conftest.py").write_text(code)
    (folder / "test_evil.py").write_text(f"{code}def test_evil(): pass\n")
    (folder / "setup.py").write_text(code)
    (folder / "evil.pth").write_text(f"import os; {code}")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --collect-only -p evil\n")
    (folder / "robustness.toml").write_text("expectation = 'hardened'\n")
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "vocab.pkl"):
        (folder / name).write_bytes(pickle.dumps(_Payload(mark)))
    auto = ("Config", "Model", "ModelForMaskedLM", "ModelForCausalLM", "ModelForPreTraining")
    edit_config(
        folder,
        auto_map={f"Auto{name}": "evil.Evil" for name in auto},
        custom_pipelines={"fill-mask": {"impl": "evil.Evil", "pt": ["AutoModelForMaskedLM"]}},
    )
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    file.write_text(json.dumps(settings))


def test_nothing_in_the_folder_is_run(stubs: Stubs, tmp_path: Path) -> None:
    """Without a fresh store the folder would not even be read."""
    mark = tmp_path / "mark"
    hostile = tmp_path / "downloads" / "hostile"
    shutil.copytree(stubs.model, hostile)
    booby_trap(hostile, mark)
    run = run_suite(
        tmp_path / "run",
        f"--model={hostile}",
        f"--robustness-corpus={stubs.corpus}",
        f"--robustness-store={tmp_path / 'store'}",
        "-k",
        "finite or present",
    )
    assert not mark.exists()
    assert run.result.ret == pytest.ExitCode.OK
    assert set(run.verdicts.values()) == {"pass"}
    assert run.facts["policy"] is None  # the folder's own is not the user's
    assert run.facts["checkpoints"][0]["expectation"] == "paper"


def test_the_payload_is_live(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    pickle.loads(pickle.dumps(_Payload(tmp_path / "mark"))).close()
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pickle_under_another_name_is_refused(name: str, folder: Path, cache: Path) -> None:
    mark = folder / "mark"
    (folder / name).write_bytes(pickle.dumps(_Payload(mark)))
    with pytest.raises(CheckpointError):
        resolve(str(folder), cache=cache)
    assert not mark.exists()


# --- sizes ---------------------------------------------------------------------------------------


def modest(act: Callable[[], object]) -> str:
    """The error's sentence; it took neither long nor much memory to come to it."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        act()
    assert time.monotonic() - started < 20
    unit = 1 if sys.platform == "darwin" else 1024
    assert unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 1_000_000_000
    return str(caught.value)


@pytest.mark.parametrize("value", [10**6, 10**9, 10**30], ids=["1e6", "1e9", "1e30"])
@pytest.mark.parametrize(
    "setting",
    [
        "num_labels",
        "num_hidden_layers",
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "type_vocab_size",
        "num_attention_heads",
    ],
)
def test_absurd_sizes_in_the_config_are_refused_at_once(
    setting: str, value: int, folder: Path, cache: Path
) -> None:
    """transformers makes a list of a billion labels, and an index of a billion positions."""
    edit_config(folder, **{setting: value})
    assert str(folder) in modest(lambda: resolve(str(folder), cache=cache))


def test_a_causal_mask_beyond_all_memory_is_refused(tmp_path: Path, cache: Path) -> None:
    """GPT-Neo keeps one of n x n: the table of positions alone is no absurd size."""
    model = tiny_model(
        "GPTNeoForCausalLM",
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=40,
    )
    folder = save_checkpoint(tmp_path / "neo", model, tiny_tokenizer(mask=False))
    resolve(str(folder), cache=cache)
    edit_config(folder, max_position_embeddings=10_000_000)
    assert "memory" in modest(lambda: resolve(str(folder), cache=cache))


def test_as_many_modules_as_nobody_needs_are_refused(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustness.checkpoint.skeleton._MAX_MODULES", 1000)
    resolve(str(folder), cache=cache)
    edit_config(folder, num_hidden_layers=2000)
    assert "more than 1000 modules" in modest(lambda: resolve(str(folder), cache=cache))


def test_ten_terabytes_of_weights_are_refused_from_the_header(folder: Path, cache: Path) -> None:
    """The file is as large as it says, and takes no room: a sparse file."""
    n = 2 * 10**12
    header = {"x": {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}}
    file = write_safetensors(folder / "model.safetensors", header)
    try:
        os.truncate(file, file.stat().st_size + 4 * n)
    except OSError as error:
        pytest.skip(f"no such file here: {error}")
    assert "8000.0 GB of memory" in modest(lambda: resolve(str(folder), cache=cache))


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "spiece.model"])
def test_a_tokenizer_of_a_gigabyte_is_refused_unread(name: str, folder: Path, cache: Path) -> None:
    with (folder / name).open("ab") as stream:
        stream.truncate(10**9)
    said = modest(lambda: resolve(str(folder), cache=cache))
    assert f"{name} has 1000000000 bytes" in said


# --- other files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("target", ["/dev/zero", "fifo", "absent", "itself", "/"])
def test_a_link_to_what_is_no_file_is_refused_and_never_waited_for(
    name: str, target: str, folder: Path, cache: Path
) -> None:
    os.mkfifo(folder / "fifo")
    (folder / name).unlink()
    (folder / name).symlink_to(name if target == "itself" else target)
    modest(lambda: resolve(str(folder), cache=cache))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_followed_and_said(
    name: str, folder: Path, tmp_path: Path, cache: Path
) -> None:
    """Clusters and data versioning link weights; but what is released is then not what it seems."""
    (tmp_path / "elsewhere").mkdir()
    target = (folder / name).rename(tmp_path / "elsewhere" / name)
    assert resolve(str(save_checkpoint(tmp_path / "whole")), cache=cache).note is None
    (folder / name).symlink_to(Path("..") / "elsewhere" / name)
    note = resolve(str(folder), cache=cache).note
    assert note == f"{name} of the folder are links to elsewhere ({target})"


def test_links_within_a_folder_and_to_a_folder_are_nothing_special(
    folder: Path, tmp_path: Path, cache: Path
) -> None:
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "w")
    (folder / "model.safetensors").symlink_to("weights/w")
    (tmp_path / "latest").symlink_to(folder)
    assert resolve(str(tmp_path / "latest"), cache=cache).note is None


def test_the_blobs_of_a_hub_cache_are_part_of_it(folder: Path, tmp_path: Path, cache: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", folder, "org/tiny")
    assert (snapshot / "config.json").is_symlink()
    assert resolve(str(snapshot), cache=cache).note is None


# --- GGUF ----------------------------------------------------------------------------------------


def gguf_with_offsets(file: Path, offsets: tuple[int, int]) -> Path:
    """Two tensors of 64 bytes that the header puts at these offsets."""
    writer = gguf.GGUFWriter(str(file), "llama")
    for name in ("first", "second"):
        writer.add_tensor(name, np.ones(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = bytearray(file.read_bytes())
    for tensor, offset in zip((b"first", b"second"), offsets, strict=True):
        place = content.index(tensor) + len(tensor) + 4 + 8 + 4  # axes, one size, type
        content[place : place + 8] = offset.to_bytes(8, "little")
    file.write_bytes(bytes(content))
    return file


@pytest.mark.parametrize(
    ("offsets", "said"),
    [
        ((0, 32), "where none can begin"),
        ((0, 0), "where none can begin"),
        ((64, 64), "where none can begin"),
        ((0, 65), "where none can begin"),
        ((0, 2**62), "is truncated"),
        ((2**64 - 64, 0), "is truncated"),
    ],
)
def test_tensors_of_a_gguf_file_lie_side_by_side(
    offsets: tuple[int, int], said: str, tmp_path: Path
) -> None:
    read_gguf_header(gguf_with_offsets(tmp_path / "right.gguf", (0, 64)))
    with pytest.raises(CheckpointError, match=said):
        read_gguf_header(gguf_with_offsets(tmp_path / "wrong.gguf", offsets))


# --- numbers -------------------------------------------------------------------------------------


def overflowing(folder: Path) -> Path:
    """Finite weights whose product is not."""
    save_stub(folder, DIM)
    file = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}
    for part in ("intermediate", "output"):
        tensors[f"bert.encoder.layer.0.{part}.dense.weight"].fill_(3e38)
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_weights_that_overflow_pass_no_check(stubs: Stubs, tmp_path: Path) -> None:
    """All parameters are finite; what they compute is not."""
    run = run_suite(
        tmp_path / "run", f"--model={overflowing(tmp_path / LABEL)}", *stubs.surroundings
    )
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    found = {name.partition("::")[2].partition("[")[0]: v for name, v in run.verdicts.items()}
    assert found.pop("test_outliers_are_present") == "pass"  # of what the weights are
    assert set(found.values()) == {"error"}
    assert len(found) == 5
    text = text_of(run.result)
    assert "negative log-likelihood is not a finite number" in text
    assert "Traceback" not in text
    records = [json.loads(file.read_text()) for file in stubs.store.glob("v1/*/??/*.json")]
    assert records  # what is not finite may be kept, for the next run to refuse as well
