"""What a checkpoint is held against: the baseline of another one, compared by text block.

Whether a difference is too large is decided in :mod:`robustness.checks`. Torch-free.
"""
