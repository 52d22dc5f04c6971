"""Run as a process of its own: reads one pickle of tensors and writes it as safetensors.

``weights_only`` lets torch's reader build tensors and plain containers and nothing else. Should it
have a hole, this process has no network where the kernel allows taking it away, no secrets in its
environment, and no more memory or disk than tensors of the file's size take.
"""

import ctypes
import json
import math
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustness.checkpoint.loading import reason
from robustness.errors import CheckpointError

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # flags of unshare(2)
_SPARE_BYTES = 256_000_000  # of memory, beside the tensors
_MOST_COPIES = 4  # of the file's size, to write: tensors that share numbers are written apiece
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def main(source: Path, target: Path) -> int:
    """Convert a file; what is wrong with it is written to standard output, with exit code 1."""
    _leave_the_network()
    import torch  # noqa: F401 (how much memory it takes is known before the bound is set)

    _bound(source.stat().st_size)
    try:
        convert(source, target)
    except CheckpointError as error:
        sys.stdout.write(str(error))
        return 1
    return 0


def convert(source: Path, target: Path) -> None:
    """Read a pickle and write its tensors as safetensors.

    Raises:
        CheckpointError: It is damaged or holds something else; the text is a part of a sentence.
    """
    import torch

    try:
        tensors = dict(_tensors(torch.load(source, map_location="cpu", weights_only=True)))
        _write(target, tensors, most=_MOST_COPIES * source.stat().st_size)
    except CheckpointError:
        raise
    except Exception as error:  # anything, since the input may be hostile
        raise CheckpointError(_explained(error)) from error


def _leave_the_network() -> None:
    """Move to a network namespace without any device, before there is a second thread."""
    with suppress(OSError, AttributeError):  # a system without it
        unshare = ctypes.CDLL(None).unshare
        for flags in (_NEW_NETWORK, _NEW_NETWORK | _NEW_USER):
            if unshare(flags) == 0:
                return


def _bound(n_bytes: int) -> None:
    """Take no more memory than twice the file, write no more than the tensors, dump no core."""
    with suppress(ImportError, OSError, ValueError):  # a system without it
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        disk = _MOST_COPIES * n_bytes + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        memory = pages * resource.getpagesize() + 2 * n_bytes + _SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def _tensors(value: Any) -> Iterator[tuple[str, Any]]:
    """The tensors by their names, if that is all there is."""
    import torch

    if not isinstance(value, dict):
        raise CheckpointError(f"it holds a {type(value).__name__}, not a table of tensors")
    for name, tensor in value.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise CheckpointError(f"{name!r} is no name of a tensor")
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{name!r} is a {type(tensor).__name__}, not a tensor")
        known = str(tensor.dtype).removeprefix("torch.") in _DTYPES
        if not known or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(f"{name!r} is a tensor of a kind that safetensors do not hold")
        yield name, tensor.detach()


def _write(file: Path, tensors: dict[str, Any], *, most: int) -> None:
    """One safetensors file, tensor by tensor; those that share numbers get copies."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * tensor.element_size()
        dtype = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        shape = list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    if end > most:
        raise CheckpointError(f"its tensors take {end} bytes, far more than the file has")
    import torch

    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tofile(stream)


def _explained(error: Exception) -> str:
    text = str(error)
    if wanted := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it asks for {wanted[1]}, which weights do not need"
    if isinstance(error, MemoryError) or "memory" in text or "bad alloc" in text:
        return "reading it takes more memory than a file of its size may need"
    _, _, behind = text.partition("trusted source.")  # of a text on weights_only, the cause
    return f"it is damaged, or holds more than tensors ({reason(ValueError(behind or text))})"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
