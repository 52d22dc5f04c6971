"""How many text blocks run at a time: a matter of speed and memory, not of what is measured.

Values move in their last digits with the batch they are computed in. So a chunk's micro-batches
are a function of the lengths in it and of one number, the most tokens in a batch, which is stored
with the intact model's values and used again for every ablation of the same chunk.
"""

from collections.abc import Sequence

CPU_TOKENS = 512
"""Tokens of a batch on a processor: larger ones fall out of its caches (benchmarks/RESULTS.md)."""

ACCELERATOR_TOKENS = 16_384
"""Tokens of a batch elsewhere: a whole chunk, unless its text blocks are very long."""

_FLOATS_PER_FEATURE = 48
"""Floats that exist at a time per token and feature: MLPs are 4 to 8 wide, attention has 4 parts,
norms and the residual stream their own copies; an upper bound for the common architectures."""


def micro_batches(lengths: Sequence[int], *, most_tokens: int) -> list[list[int]]:
    """Row indices of each batch: similar lengths together, the shortest first.

    A batch has at most ``most_tokens``, padding included; a longer row is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > most_tokens:
            batches.append([])
        batches[-1].append(row)
    return [batch[::-1] for batch in reversed(batches)]


def first_guess(device: str, *, hidden_size: int, reserved: int) -> int:
    """The most tokens of a batch: what is fast, or less where free memory does not allow it.

    ``reserved`` bytes are needed whatever the batch is. Running out of memory halves the guess; see
    :func:`robustness.runtime.devices.is_out_of_memory`.
    """
    wanted = CPU_TOKENS if device == "cpu" else ACCELERATOR_TOKENS
    free = _free_memory(device)
    if free is None:
        return wanted
    affordable = (free // 2 - reserved) // (4 * hidden_size * _FLOATS_PER_FEATURE)
    return max(1, min(wanted, affordable))


def _free_memory(device: str) -> int | None:
    """Free bytes where the model runs, ``None`` where nobody says."""
    if device == "cpu":
        import psutil  # type: ignore[import-untyped]

        return int(psutil.virtual_memory().available)
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return None
