import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from robustness.checkpoint.resolving import resolve
from robustness.errors import CheckpointError
from tests.support.checkpoints.checkpoint_folders import hub_cache, save_checkpoint

COMMIT = "c" * 40


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A Hub cache that holds org/tiny and, without weights, org/partial."""
    cache = tmp_path / "hub"
    hub_cache(cache, save_checkpoint(tmp_path / "tiny"), "org/tiny", commit=COMMIT)
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "config.json").write_text("{}")
    hub_cache(cache, tmp_path / "partial", "org/partial")
    return cache


@pytest.fixture
def offline(cached: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cached))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cached


@pytest.fixture
def online(cached: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cached))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return cached


def answer_with(monkeypatch: pytest.MonkeyPatch, outcome: Any) -> None:
    """Let the Hub answer a request for a model with an exception or an object."""

    def model_info(self: HfApi, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(HfApi, "model_info", model_info)


def hub_error(name: str, status: int) -> Exception:
    from huggingface_hub import errors

    cls = getattr(errors, name)
    error: Exception = cls.__new__(cls)
    error.args = ("from the Hub",)
    error.response = type("Response", (), {"status_code": status})()  # type: ignore[attr-defined]
    return error


@pytest.mark.usefixtures("offline")
def test_offline_a_cached_model_is_resolved_to_its_commit(tmp_path: Path) -> None:
    checkpoint = resolve("org/tiny", cache=tmp_path / "cache")
    assert (checkpoint.revision, checkpoint.label, checkpoint.source) == (COMMIT, "tiny", "hub")
    assert checkpoint.note is None
    assert checkpoint.load_model().config.model_type == "bert"


@pytest.mark.usefixtures("offline")
def test_the_same_content_has_the_same_hashes_in_the_hub_cache_and_in_a_folder(
    tmp_path: Path,
) -> None:
    from_folder = resolve(str(tmp_path / "tiny"), cache=tmp_path / "a")
    from_hub = resolve("org/tiny", cache=tmp_path / "b")
    assert from_hub.weights_hash == from_folder.weights_hash
    assert from_hub.tokenizer_hash == from_folder.tokenizer_hash
    assert from_hub.config_hash == from_folder.config_hash
    assert from_folder.revision.startswith("sha256:")


@pytest.mark.parametrize("reference", ["org/other", "org/tiny@v2", "bert-base-uncasd"])
@pytest.mark.usefixtures("offline")
def test_offline_what_is_not_cached_is_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        resolve(reference, cache=tmp_path / "cache")


@pytest.mark.usefixtures("offline")
def test_offline_a_partly_cached_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="go online once"):
        resolve("org/partial", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "error",
    [ConnectionError("no route"), TimeoutError("slow"), hub_error("HfHubHTTPError", 503)],
    ids=["connection", "timeout", "server"],
)
@pytest.mark.usefixtures("online")
def test_an_unreachable_hub_falls_back_to_the_cache_and_says_so(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, error)
    checkpoint = resolve("org/tiny", cache=tmp_path / "cache")
    assert checkpoint.revision == COMMIT
    assert "could not be reached" in str(checkpoint.note)
    with pytest.raises(CheckpointError, match="could not be reached"):
        resolve("org/other", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_error("RepositoryNotFoundError", 404), "no model named 'org/tiny' on the Hub"),
        (hub_error("GatedRepoError", 403), "gated: request access"),
        (hub_error("RevisionNotFoundError", 404), "has no revision 'v9'"),
        (hub_error("HfHubHTTPError", 429), "from the Hub"),
        (RuntimeError("something\nelse"), r"fetched from the Hub \(something else\)"),
    ],
    ids=["not-found", "gated", "revision", "rate", "other"],
)
@pytest.mark.usefixtures("online")
def test_what_the_hub_refuses_is_one_sentence(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, error)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve("org/tiny@v9", cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "could not be reached"),
    ],
    ids=["offline", "unreachable"],
)
def test_the_environment_is_honoured_and_failure_is_quick(
    environment: dict[str, str], message: str, cached: Path, tmp_path: Path
) -> None:
    code = (
        "import pathlib, sys; from robustness.checkpoint.resolving import resolve\n"
        "try: resolve(sys.argv[1], cache=pathlib.Path(sys.argv[2]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    started = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "org/missing", str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_CACHE": str(cached), **environment},
    )
    assert out.stdout.startswith("CheckpointError ")
    assert message in out.stdout
    assert time.monotonic() - started < 30
