"""Against a stand-in for the Hub: what was downloaded once is found without network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from safetensors.torch import load_file

from robustness.checkpoint.hub import download
from robustness.checkpoint.reading import ReadOptions
from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support.checkpoints.checkpoint_folders import save_checkpoint, tiny_model
from tests.support.checkpoints.gguf_files import TOKENS, write_llama_gguf
from tests.support.checkpoints.hub_stub import Repository, model_hub

OLD, NEW = "a" * 40, "b" * 40
MODEL = {
    name: f"{name}, of no interest here".encode()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
}
SUPERFLUOUS = dict.fromkeys(
    (
        "README.md", ".gitattributes", "pytorch_model.bin", "tf_model.h5", "model.fp16.safetensors",
        "model-00001-of-00001.safetensors", "model.safetensors.index.json", "onnx/model.onnx",
        "onnx/config.json", "vocab.txt", "merges.txt",
    ),
    b"nobody needs this",
)  # fmt: skip
Q4 = "tiny-Q4_K_M.gguf"
SPLIT = tuple(f"big/tiny-Q8_0-{part:05}-of-00003.gguf" for part in (1, 2, 3))
GGUF = dict.fromkeys((Q4, "tiny-IQ4_K_M.gguf", "tiny-f16.gguf", "mmproj-f16.gguf", *SPLIT), b"GGUF")
FOLDERS = {
    "fp32/config.json": b"{}",
    "fp32/model.safetensors": b"deeper",
    "fp32/tokenizer.json": b"{}",
    "fp32/onnx/tokenizer.json": b"{}",
}


@dataclass
class Network:
    """The cache of the Hub's client, and how it reaches the stand-in."""

    address: str
    asked: list[str]
    monkeypatch: pytest.MonkeyPatch

    def is_there(self) -> None:
        self._reach(self.address)

    def is_unreachable(self) -> None:
        self._reach("http://127.0.0.1:9")

    def is_switched_off(self) -> None:
        self.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def _reach(self, address: str) -> None:
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        self.monkeypatch.setattr(constants, "ENDPOINT", address)
        self.monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        self.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


Serve = Callable[..., Network]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts a Hub of some repositories by their names, beside an empty cache."""
    hubs = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def start(**repositories: Repository) -> Network:
        named = {f"org/{name}": repository for name, repository in repositories.items()}
        hubs.append(model_hub(named))
        network = Network(*hubs[-1].__enter__(), monkeypatch)
        network.is_there()
        return network

    yield start
    for hub in hubs:
        hub.__exit__(None, None, None)


def of(*contents: dict[str, bytes]) -> Repository:
    """A repository whose main branch, and the tag v2, hold all of that."""
    files = {name: content for each in contents for name, content in each.items()}
    commits = {OLD: dict(MODEL), NEW: files}
    return Repository(commits=commits, refs={"main": NEW, "v1": OLD, "v2": NEW, "try/1": NEW})


def fetched(text: str) -> tuple[Path, str, list[str]]:
    return download(CheckpointRef.parse(text))


@pytest.mark.parametrize("more", [{}, SUPERFLUOUS], ids=["lean", "superfluous"])
@pytest.mark.parametrize(
    ("revision", "commit"),
    [
        ("", NEW),
        ("@main", NEW),
        ("@try/1", NEW),
        ("@v1", OLD),
        (f"@{OLD}", OLD),
        ("@aaaaaaaa", OLD),
    ],
    ids=["none", "main", "branch", "tag", "commit", "short"],
)
def test_what_was_downloaded_once_is_found_without_network(
    revision: str, commit: str, more: dict[str, bytes], serve: Serve
) -> None:
    network = serve(tiny=of(MODEL, more))
    there = fetched(f"org/tiny{revision}")
    assert there[1:] == (commit, [])
    assert not {"pytorch_model.bin", "README.md", "onnx", "model-00001-of-00001.safetensors"} & {
        path.name for path in there[0].iterdir()
    }
    network.is_switched_off()
    asked = len(network.asked)
    assert fetched(f"org/tiny{revision}") == there
    assert len(network.asked) == asked
    network.is_unreachable()
    assert fetched(f"org/tiny{revision}")[:2] == there[:2]
    assert "could not be reached" in fetched(f"org/tiny{revision}")[2][0]


def test_transformers_finds_offline_what_was_downloaded(serve: Serve, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    network = serve(tiny=of(files, {"README.md": b"", "pytorch_model.bin": b""}))
    said: list[str] = []
    resolve("org/tiny", cache=tmp_path / "cache", progress=said.append)
    assert f"fetching org/tiny at {NEW[:12]} from the Hub" in said
    network.is_switched_off()
    said.clear()
    checkpoint = resolve("org/tiny", cache=tmp_path / "cache", progress=said.append)
    assert not any("fetching" in each for each in said)
    assert (checkpoint.revision, checkpoint.note) == (NEW, None)
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    where: Any = {"cache_dir": tmp_path / "hub"}  # transformers has read its constants long ago
    model = AutoModelForMaskedLM.from_pretrained("org/tiny", **where)
    assert model.num_parameters() == checkpoint.n_parameters
    assert len(AutoTokenizer.from_pretrained("org/tiny", **where)) == checkpoint.vocab_size


@pytest.mark.parametrize(
    "options",
    [
        {"ignore_patterns": ["*.bin"]},
        {"ignore_patterns": ["*.bin", "*.h5", "onnx/*", "*.md", "*-of-*"]},
        {"allow_patterns": ["*.json", "*.safetensors"]},
        {"allow_patterns": ["*.json", "model.safetensors"]},
    ],
)
@pytest.mark.parametrize("revision", ["main", NEW])
def test_a_cache_that_somebody_filled_without_what_nobody_needs_is_enough(
    options: Any, revision: str, serve: Serve
) -> None:
    network = serve(tiny=of(MODEL, SUPERFLUOUS))
    snapshot_download("org/tiny", revision=revision, **options)
    network.is_switched_off()
    assert fetched(f"org/tiny@{revision}")[1] == NEW


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ("config.json", "only a part of the config"),
        ("tokenizer_config.json", "only a part of the config"),
        ("model.safetensors", "no safetensors weights in the local Hub cache: go online once"),
    ],
)
def test_a_cache_that_lacks_what_is_needed_says_so(left_out: str, says: str, serve: Serve) -> None:
    network = serve(tiny=of(MODEL))
    snapshot_download("org/tiny", ignore_patterns=[left_out])
    network.is_switched_off()
    with pytest.raises(CheckpointError, match=says):
        fetched("org/tiny")


def test_without_a_fast_tokenizer_its_vocabulary_is_needed(serve: Serve) -> None:
    slow = {"config.json": b"{}", "model.safetensors": b"", "vocab.json": b"", "merges.txt": b""}
    network = serve(tiny=of(slow))
    snapshot_download("org/tiny", ignore_patterns=["merges.txt"])
    network.is_switched_off()
    with pytest.raises(CheckpointError, match="only a part"):
        fetched("org/tiny")


def test_a_short_commit_and_another_revision_are_told_from_the_cached_commits(serve: Serve) -> None:
    network = serve(tiny=of(MODEL))
    fetched(f"org/tiny@{OLD}")
    network.is_switched_off()
    assert fetched("org/tiny@aaaaaaaaa")[1] == OLD
    with pytest.raises(CheckpointError, match=f"HF_HUB_OFFLINE is set.*but commit {OLD}"):
        fetched("org/tiny")


def test_a_renamed_repository_is_followed_said_and_found_offline(serve: Serve) -> None:
    network = serve(old=Repository(moved_to="org/new"), new=of(MODEL))
    folder, commit, notes = fetched("org/old@v2")
    assert (commit, notes) == (NEW, ["org/old is called org/new on the Hub now"])
    network.is_switched_off()
    assert fetched("org/old@v2") == (folder, commit, [])


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_asks_to_log_in(status: Any, serve: Serve) -> None:
    serve(closed=Repository(commits={NEW: MODEL}, refs={"main": NEW}, denied=status))
    with pytest.raises(CheckpointError, match=r"gated: request access .* log in with `hf auth"):
        fetched("org/closed")


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (
            "org/absent",
            "no such folder as 'org/absent', and no model named 'org/absent' on the Hub",
        ),
        ("org/tiny@v3", "no revision 'v3' on the Hub"),
        (f"org/tiny@{'c' * 40}", "no revision 'c+' on the Hub"),
        ("org/absent/sub", "no such folder as 'org/absent/sub'"),
        ("org/tiny/sub", "no such folder as 'org/tiny/sub', and org/tiny has no 'sub' on the Hub"),
        ("org/tiny/x.gguf", "no such GGUF file on the Hub: check the name"),
        ("org/pickles", "no safetensors weights on the Hub: --robustness-allow-pickle"),
        ("org/adapter", "no safetensors weights on the Hub: --robustness-allow-pickle"),
        ("org/ggufs", rf"but GGUF on the Hub: name a file, as in org/ggufs/big/.*org/ggufs/{Q4}"),
        ("org/ggufs:Q5_K", rf"names no such GGUF file on the Hub: give one of .*org/ggufs/{Q4}"),
        (
            "org/ggufs:f16",
            "names 2 GGUF files .*: give one of org/ggufs/mmproj-f16.gguf, org/ggufs/",
        ),
        ("org/holed:Q8_0", "lacks 1 of its 3 parts on the Hub: look for big/tiny-Q8_0-00002"),
    ],
)
def test_what_the_hub_does_not_have_is_one_sentence(
    reference: str, says: str, serve: Serve
) -> None:
    serve(
        tiny=of(MODEL),
        ggufs=of(GGUF),
        holed=of(dict.fromkeys((SPLIT[0], SPLIT[2]), b"GGUF")),
        adapter=of({"adapter_config.json": b"", "adapter_model.bin": b""}),
        pickles=of({"config.json": b"", "pytorch_model.bin": b"", "onnx/x.safetensors": b""}),
    )
    with pytest.raises(CheckpointError, match=says) as caught:
        fetched(reference)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "files"),
    [
        (f"org/ggufs/{Q4}", {Q4}),
        (f"org/ggufs/{Q4}@v2", {Q4}),
        ("org/ggufs:Q4_K_M", {Q4}),
        ("org/ggufs:q4_k_m@main", {Q4}),
        ("org/ggufs:Q8_0", {*SPLIT}),
        (f"org/ggufs/{SPLIT[0]}", {*SPLIT}),
        ("org/ggufs/fp32@v2", {name for name in FOLDERS if "onnx" not in name}),
    ],
)
def test_a_part_of_a_repository_is_fetched_alone_and_found_offline(
    reference: str, files: set[str], serve: Serve
) -> None:
    network = serve(ggufs=of(GGUF, FOLDERS))
    place, commit, _ = there = fetched(reference)
    snapshot = next(parent for parent in place.parents if parent.name == commit)
    assert {
        path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()
    } == files
    assert place == snapshot / min(files) or place == snapshot / "fp32"
    network.is_switched_off()
    assert fetched(reference) == there


def test_a_subfolder_is_vetted_like_a_repository(serve: Serve, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "tiny")
    network = serve(tiny=of({f"fp32/{path.name}": path.read_bytes() for path in folder.iterdir()}))
    checkpoint = resolve("org/tiny/fp32@v2", cache=tmp_path / "cache")
    assert (checkpoint.label, checkpoint.revision, checkpoint.note) == ("fp32", NEW, None)
    assert checkpoint.weights_hash == resolve(str(folder), cache=tmp_path / "cache").weights_hash
    network.is_switched_off()
    assert resolve("org/tiny/fp32@v2", cache=tmp_path / "cache") == checkpoint


def test_a_pickle_of_the_hub_is_read_where_that_is_allowed(serve: Serve, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "tiny")
    plain = resolve(str(folder), cache=tmp_path / "cache")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pickle")
    files["pytorch_model.bin"] = (tmp_path / "pickle").read_bytes()
    network = serve(
        tiny=of({name: files[name] for name in files if name != "model.safetensors"}),
        both=of(files),
    )
    allowed: Any = {"cache": tmp_path / "cache", "options": ReadOptions(allow_pickle=True)}
    with pytest.raises(CheckpointError, match="on the Hub: --robustness-allow-pickle"):
        resolve("org/tiny", cache=tmp_path / "cache")
    checkpoint = resolve("org/tiny", **allowed)
    assert checkpoint.revision == NEW
    assert checkpoint.note == "its weights are pickled, and were converted"
    found, expected = (dict(each.load_model().state_dict()) for each in (checkpoint, plain))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resolve("org/both", **allowed).note is None  # its pickle is not even fetched
    network.is_switched_off()
    assert resolve("org/tiny", **allowed) == checkpoint
    with pytest.raises(CheckpointError, match=r"Hub cache.* --robustness-allow-pickle"):
        resolve("org/tiny", cache=tmp_path / "cache")


def test_a_gguf_of_the_hub_is_the_model_in_it(serve: Serve, tmp_path: Path) -> None:
    model = tiny_model("LlamaForCausalLM", vocab_size=len(TOKENS), num_key_value_heads=1)
    file = write_llama_gguf(tmp_path / "own.gguf", model)
    network = serve(ggufs=of(GGUF, {Q4: file.read_bytes()}))
    checkpoint = resolve("org/ggufs:q4_k_m", cache=tmp_path / "cache")
    assert (checkpoint.source, checkpoint.revision) == ("hub", NEW)
    found = dict(checkpoint.load_model().named_parameters())
    for name, value in model.named_parameters():
        assert torch.equal(found[name], value), name
    network.is_switched_off()
    assert resolve("org/ggufs:Q4_K_M", cache=tmp_path / "cache").weights_hash == (
        checkpoint.weights_hash
    )
    assert checkpoint.weights_hash == resolve(str(file), cache=tmp_path / "cache").weights_hash
