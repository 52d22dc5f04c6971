"""Fetching a checkpoint from the Hugging Face Hub, or from what it left in the local cache."""

import glob
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from robustness.checkpoint.loading import reason
from robustness.checkpoint.other_formats import (
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    PICKLE,
    PICKLE_INDEX,
)
from robustness.checkpoint.reference import CheckpointRef
from robustness.checkpoint.tokenization import TOKENIZER_FILES
from robustness.checkpoint.weights import INDEX_FILE, SINGLE_FILE
from robustness.errors import CheckpointError

_SETTINGS = (
    "config.json",
    "adapter_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_Kinds = Literal["safe", "pickles", "tokenizer"]  # of files that are wanted
_SHARDS = (INDEX_FILE, "*-of-*.safetensors")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
_TIMEOUT_SECONDS = 10.0
_ON_THE_HUB = "on the Hub:"
_IN_THE_CACHE = "in the local Hub cache: go online once to download it,"


def download(
    ref: CheckpointRef,
    *,
    progress: Callable[[str], None] | None = None,
    allow_pickle: bool = False,
    only_tokenizer: bool = False,
) -> tuple[Path, str, list[str]]:
    """Bring a Hub checkpoint into the local Hub cache, at one commit.

    Honours ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_ENDPOINT`` and the stored token. When the Hub
    cannot be reached, what the cache holds of that revision is used, and a note says so. The cache
    is left so that transformers finds the model in it without network, too.

    Returns:
        The folder or GGUF file in the cache, the commit hash, and notes.

    Raises:
        CheckpointError: There is no such model, revision or file, no access, no network and nothing
            in the cache, or it has no weights that can be read.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    kinds: _Kinds = "tokenizer" if only_tokenizer else "pickles" if allow_pickle else "safe"
    if constants.HF_HUB_OFFLINE:
        place, commit = _cached(ref, kinds, "HF_HUB_OFFLINE is set", "unset that to download it")
        return place, commit, []
    try:
        info = HfApi().model_info(ref.target, revision=ref.revision, timeout=_TIMEOUT_SECONDS)
        wanted = _wanted(ref, kinds, {file.rfilename for file in info.siblings or ()}, _ON_THE_HUB)
        if progress is not None:
            progress(f"fetching {ref.target} at {str(info.sha)[:12]} from the Hub")
        # The revision as it was named, not its commit: so it is entered in the cache's refs.
        patterns = [glob.escape(name) for name in wanted]
        folder = Path(snapshot_download(ref.target, revision=ref.revision, allow_patterns=patterns))
    except CheckpointError:
        raise
    except Exception as error:  # every kind of network and Hub failure
        if not _is_unreachable(error):
            raise _explained(error, ref) from error
        place, commit = _cached(ref, kinds, "the Hub could not be reached", "check the network")
        note = f"the Hub could not be reached, the cached revision {commit[:12]} was used"
        return place, commit, [note]
    notes = [] if info.id == ref.target else [f"{ref.target} is called {info.id} on the Hub now"]
    return _place(folder, ref, wanted), folder.name, notes


def _cached(ref: CheckpointRef, kinds: _Kinds, why: str, advice: str) -> tuple[Path, str]:
    """The folder or GGUF file that the local cache holds, and its commit.

    The Hub client knows from an earlier download which files the repository has. Of these, all that
    decide about config and tokenizer have to be there; weights are looked at as in any folder.
    """
    below = f"{ref.inside}/" if ref.inside else ""
    folder = _snapshot(ref, [] if ref.is_gguf else [below + each for each in _SETTINGS])
    if folder is None:
        commits = _cached_commits(ref)
        other = f", but commit {' and '.join(commits)} (add '@' and one of them)" if commits else ""
        raise CheckpointError(
            f"There is no such folder as {ref.text!r}, {why}, and the local Hub cache does not "
            f"hold that model{other}: {advice}, or check the path."
        )
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = _wanted(ref, kinds, names, _IN_THE_CACHE)
    if not ref.is_gguf and f"{below}tokenizer.json" not in names:
        _snapshot(ref, [below + each for each in TOKENIZER_FILES])
    return _place(folder, ref, wanted), folder.name


def _snapshot(ref: CheckpointRef, patterns: Sequence[str]) -> Path | None:
    """The cached snapshot of a revision, where no file that matches is known to be missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    revision = ref.revision
    if revision and re.fullmatch(r"[0-9a-f]{7,39}", revision):
        commits = [each for each in _cached_commits(ref) if each.startswith(revision)]
        revision = commits[0] if len(commits) == 1 else revision
    try:
        return Path(
            snapshot_download(
                ref.target, revision=revision, local_files_only=True, allow_patterns=[*patterns]
            )
        )
    except LocalEntryNotFoundError as error:
        if hasattr(error, "snapshot_path"):  # of its subclass in later versions of the client
            raise CheckpointError(
                f"The local Hub cache holds only a part of the config and tokenizer of {ref.text}: "
                "go online once to download the rest, or give a folder."
            ) from error
        return None


def _cached_commits(ref: CheckpointRef) -> list[str]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    with suppress(CacheNotFound, OSError):
        found = [
            revision.commit_hash
            for repository in scan_cache_dir(constants.HF_HUB_CACHE).repos
            if (repository.repo_id, repository.repo_type) == (ref.target, "model")
            for revision in repository.revisions
        ]
        return sorted(found)
    return []


def _wanted(ref: CheckpointRef, kinds: _Kinds, names: Collection[str], where: str) -> list[str]:
    """Those of a repository's files that are needed.

    Raises:
        CheckpointError: They are not among its files.
    """
    if ref.is_gguf:
        return _gguf_parts(ref, names, where)
    below = f"{ref.inside}/" if ref.inside else ""
    own = [name.removeprefix(below) for name in names if name.startswith(below)]
    if below and not own:
        raise CheckpointError(
            f"There is no such folder as {ref.text!r}, and {ref.target} has no {ref.inside!r} "
            f"{where} check the path."
        )
    weights = () if kinds == "tokenizer" else _weights(ref, kinds, own, where)
    patterns = (*_SETTINGS, *TOKENIZER_FILES, *weights)
    return [
        below + name
        for name in sorted(own)
        if "/" not in name and any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _weights(ref: CheckpointRef, kinds: _Kinds, own: Collection[str], where: str) -> Sequence[str]:
    """Patterns of the files with the weights, of those in the folder that is meant."""
    if any(fnmatchcase(name, "*.safetensors") and "/" not in name for name in own):
        return (SINGLE_FILE,) if SINGLE_FILE in own else (*_SHARDS, ADAPTER_WEIGHTS)
    whole = next((name for name in (PICKLE, ADAPTER_PICKLE) if name in own), None)
    pickles = (PICKLE_INDEX, "*-of-*.bin") if whole is None else (whole,)
    if kinds == "pickles" and pickles[0] in own:
        return pickles
    below = f"{ref.inside}/" if ref.inside else ""
    if ggufs := _ggufs([below + name for name in own]):
        raise CheckpointError(
            f"{ref.text} has no safetensors weights, but GGUF {where} name a file, as in "
            f"{_listed(ref, ggufs)}."
        )
    raise CheckpointError(
        f"{ref.text} has no safetensors weights {where} "
        + (
            "--robustness-allow-pickle (of a command: --allow-pickle) reads its pickle."
            if pickles[0] in own
            else "load it where you trust it, save it with save_pretrained(), and give that folder."
        )
    )


def _gguf_parts(ref: CheckpointRef, names: Collection[str], where: str) -> list[str]:
    """The GGUF file that is meant, with all parts if it is split; the one to read comes first."""
    ggufs, inside = _ggufs(names), ref.inside or ""
    found = [inside] if inside in names else []
    if ref.quantisation:
        word = re.compile(rf"(?<![^\W_]){re.escape(ref.quantisation)}(?!\w)", re.IGNORECASE)
        found = [name for name in ggufs if name.startswith(inside) and word.search(name)]
    if len(found) != 1:
        how_many = f"{len(found)} GGUF files" if found else "no such GGUF file"
        listed = (
            f"give one of {_listed(ref, found or ggufs)}" if found or ggufs else "check the name"
        )
        raise CheckpointError(f"{ref.text} names {how_many} {where} {listed}.")
    (name,) = found
    split = _PART.fullmatch(name)
    if split is None:
        return [name]
    stem, _, count, ending = split.groups()
    parts = [f"{stem}-{number:05}-of-{count}{ending}" for number in range(1, int(count) + 1)]
    if missing := [part for part in parts if part not in names]:
        raise CheckpointError(
            f"{ref.text} lacks {len(missing)} of its {int(count)} parts {where} look for "
            f"{missing[0]}."
        )
    return [name, *(part for part in parts if part != name)]


def _ggufs(names: Collection[str]) -> list[str]:
    """GGUF files; of split ones the first part."""
    parts = {name: _PART.fullmatch(name) for name in names if name.lower().endswith(".gguf")}
    return sorted(name for name, part in parts.items() if part is None or int(part[2]) == 1)


def _listed(ref: CheckpointRef, names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(f"{ref.target}/{name}" for name in names[:8]) + more


def _place(snapshot: Path, ref: CheckpointRef, wanted: Sequence[str]) -> Path:
    """What is read in a snapshot."""
    return snapshot / (wanted[0] if ref.is_gguf else ref.inside or "")


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

    response: Any = getattr(error, "response", None)
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
            f"There is no such folder as {ref.text!r}, and no model named {ref.target!r} on the "
            "Hub: check the spelling, or log in with `hf auth login` if it is private."
        )
    if response is not None and response.status_code in (401, 403):
        return CheckpointError(
            f"The Hub refuses access to {ref.target} ({reason(error)}): log in with "
            "`hf auth login` as somebody who may read it."
        )
    advice = "name another cache with HF_HOME" if isinstance(error, OSError) else "try again later"
    return CheckpointError(
        f"{ref.text} could not be fetched from the Hub ({reason(error)}): {advice}, or give a "
        "folder."
    )
