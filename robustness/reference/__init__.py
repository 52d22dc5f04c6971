"""What a candidate is held against, a second checkpoint or a saved profile, and where they differ.

Whether a difference is too large is decided in :mod:`robustness.checks`.
Torch-free but for `states`.
"""
