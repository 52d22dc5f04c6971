"""Fetching a checkpoint from the Hugging Face Hub, or from what it left in the local cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustness.checkpoint.loading import reason
from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.tokenization import TOKENIZER_FILES
from robustness.checkpoint.weights import INDEX_FILE, SINGLE_FILE
from robustness.errors import CheckpointError

_PATTERNS = (
    "config.json",
    "adapter_config.json",
    SINGLE_FILE,
    INDEX_FILE,
    "*-of-*.safetensors",
    *TOKENIZER_FILES,
)
_TIMEOUT_SECONDS = 10.0


def download(
    ref: CheckpointRef, *, progress: Callable[[str], None] | None = None
) -> tuple[Path, str, list[str]]:
    """Bring a Hub checkpoint into the local Hub cache, at one commit.

    Honours ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_ENDPOINT`` and the stored token. When the Hub
    cannot be reached, what the cache holds of that revision is used, and a note says so.

    Returns:
        The snapshot folder, its commit hash, and notes.

    Raises:
        CheckpointError: There is no such model or revision, no access, no network and nothing in
            the cache, or it has no safetensors weights.
    """
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        folder = _cached(ref)
        if folder is None:
            raise CheckpointError(
                f"{ref.text} is not in the local Hub cache and HF_HUB_OFFLINE is set: unset it to "
                "download the model, or give a folder."
            )
        return _complete(folder, ref), folder.name, []
    commit = _commit(ref)
    if isinstance(commit, Path):
        note = f"the Hub could not be reached, the cached revision {commit.name[:12]} was used"
        return _complete(commit, ref), commit.name, [note]
    if progress is not None:
        progress(f"fetching {ref.target} at {commit[:12]} from the Hub")
    try:
        folder = Path(
            snapshot_download(
                ref.target,
                revision=commit,
                allow_patterns=list(_PATTERNS),
                ignore_patterns=["*/*"],
            )
        )
    except Exception as error:  # every kind of network and Hub failure
        raise _explained(error, ref) from error
    return folder, folder.name, []


def _commit(ref: CheckpointRef) -> str | Path:
    """The commit the revision stands for now, or the cached snapshot if the Hub is unreachable."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(ref.target, revision=ref.revision, timeout=_TIMEOUT_SECONDS)
    except Exception as error:  # every kind of network and Hub failure
        if not _is_unreachable(error):
            raise _explained(error, ref) from error
        folder = _cached(ref)
        if folder is None:
            raise _explained(error, ref) from error
        return folder
    names = {sibling.rfilename for sibling in info.siblings or ()}
    if names and not any("/" not in name and name.endswith(".safetensors") for name in names):
        raise CheckpointError(
            f"{ref.text} has no safetensors weights on the Hub: load it where you trust it, save "
            "it with save_pretrained(), and give that folder."
        )
    return str(info.sha)


def _cached(ref: CheckpointRef) -> Path | None:
    """The snapshot of a revision in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(ref.target, revision=ref.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _complete(folder: Path, ref: CheckpointRef) -> Path:
    """Refuse a snapshot of which only some files were ever fetched."""
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"The local Hub cache has no safetensors weights of {ref.text}: go online once to "
            "download them, or give a folder."
        )
    return folder


def _is_unreachable(error: BaseException) -> bool:
    """Whether no answer came at all, or the server itself failed."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        response: Any = getattr(error, "response", None)
        return response is None or response.status_code >= 500
    # The Hub client has changed its HTTP library more than once; its base error is named here.
    transport: type[BaseException] = getattr(errors, "HTTPError", ConnectionError)
    no_answer = (transport, ConnectionError, TimeoutError, errors.LocalEntryNotFoundError)
    return isinstance(error, no_answer)


def _explained(error: BaseException, ref: CheckpointRef) -> CheckpointError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{ref.target} is gated: request access on its Hub page and log in with "
            "`hf auth login`."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"{ref.target} has no revision {ref.revision!r} on the Hub: give a branch, a tag or a "
            "commit hash that exists."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"There is neither a folder nor a model on the Hub named {ref.target!r}: check the "
            "spelling, or log in with `hf auth login` if it is private."
        )
    if _is_unreachable(error):
        return CheckpointError(
            f"The Hub could not be reached for {ref.text} and the local cache does not hold it: "
            "check the network, or give a folder."
        )
    return CheckpointError(
        f"{ref.text} could not be fetched from the Hub ({reason(error)}): "
        "try again later, or give a folder."
    )
