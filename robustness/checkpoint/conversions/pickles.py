"""Pickled weights (``pytorch_model.bin``) become safetensors once, if the user allows it.

The pickle is read by `unpickling`, in a process of its own; what that has written is verified here
like the files of any stranger.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from robustness.checkpoint.conversions.once import made_once
from robustness.checkpoint.loading import reason
from robustness.checkpoint.other_formats import PICKLE, PICKLE_INDEX
from robustness.checkpoint.tokenization import TOKENIZER_FILES
from robustness.checkpoint.weights import (
    INDEX_FILE,
    SINGLE_FILE,
    read_header,
    weight_map,
)
from robustness.errors import CheckpointError
from robustness.store.files import stamp
from robustness.store.hashing import file_sha256

_FORMAT = 1  # of the folder; raise it when what is written changes
# A process that might run what a stranger wrote needs neither tokens nor keys.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "SYSTEMROOT")


def has_only_pickles(folder: Path) -> bool:
    """Whether a folder's weights are pickles that can be converted, and nothing else."""
    return not any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)) and any(
        (folder / name).is_file() for name in (PICKLE, PICKLE_INDEX)
    )


def converted_pickles(
    folder: Path,
    *,
    what: str,
    cache: Path,
    progress: Callable[[str], None] | None = None,
    pickle: str = PICKLE,
    single: str = SINGLE_FILE,
) -> Path:
    """The folder of the store with a folder's weights as safetensors, and its other files.

    The weights are in the file ``pickle``, of which ``single`` is made, or in shards.

    Raises:
        CheckpointError: A pickle holds anything but tensors, is damaged, or changes meanwhile.
    """
    shards: dict[str, str] = {}
    if not (folder / pickle).is_file():
        shards = dict(weight_map(folder, PICKLE_INDEX, suffix=".bin"))
    pickles = [folder / name for name in sorted(set(shards.values())) or [pickle]]
    patterns = ("config.json", *TOKENIZER_FILES)
    others = {file for each in patterns for file in folder.glob(each) if file.is_file()}
    files = sorted({*pickles, *others})
    before = stamp(files)
    digests = [file_sha256(file, memory=cache / "hashes", progress=progress) for file in files]
    named = [f"{file.name} {digest}" for file, digest in zip(files, digests, strict=True)]
    key = hashlib.sha256(json.dumps([_FORMAT, *named, shards]).encode()).hexdigest()
    converted = cache / "pickle" / key[:32]

    def make(temporary: Path) -> None:
        if progress is not None:
            progress(f"converting the pickles of {what} to safetensors, once")
        for file in others:
            shutil.copyfile(file, temporary / file.name)
        for file in pickles:
            name = f"{file.stem}.safetensors" if shards else single
            _convert(file, temporary / name, [key for key in shards if shards[key] == file.name])
        if shards:
            names = {key: f"{Path(shard).stem}.safetensors" for key, shard in shards.items()}
            (temporary / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": names}))
        if stamp(files) != before:
            raise CheckpointError(f"{what} changed while it was read: wait until it is written.")

    made_once(converted, make, n_bytes=sum(file.stat().st_size for file in files), what=what)
    return converted


def _convert(file: Path, target: Path, promised: list[str]) -> None:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    paths = os.pathsep.join(filter(None, sys.path))
    module = "robustness.checkpoint.conversions.unpickling"
    log = target.with_suffix(".log")
    with log.open("wb") as stream:
        run = subprocess.run(
            [sys.executable, "-P", "-m", module, str(file.resolve()), str(target)],
            cwd=target.parent,
            env={
                **environment,
                "HOME": str(target.parent),
                "PYTHONPATH": paths,
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            },
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    with log.open("rb") as stream:
        said = stream.read(1000).decode("utf-8", errors="replace")
    log.unlink()
    if run.returncode:
        why = reason(ValueError(said or f"its reader ended with code {run.returncode}"))
        raise CheckpointError(
            f"{file} cannot be read as weights ({why}): load it where you trust it and save it "
            "again with save_pretrained()."
        )
    held = {info.name for info in read_header(target)}
    if missing := sorted({*promised} - held):
        raise CheckpointError(
            f"{PICKLE_INDEX} promises the tensor {missing[0]!r} in {file}, which does not hold it: "
            "download or save the checkpoint again."
        )
