"""Vet language-model checkpoints: find outlier dimensions, ablate them, gate on the effect.

A folder is a room, and rooms import downwards only (the contracts in pyproject.toml list the
floors). Torch-free.
"""

__version__ = "0.1.0"
