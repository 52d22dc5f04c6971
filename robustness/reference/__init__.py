"""What a checkpoint is held against: a baseline, or another checkpoint, and where it differs.

Whether a difference is too large is decided in :mod:`robustness.checks`.
Torch-free but for `states`.
"""
