"""Vet language-model checkpoints: find their outlier dimensions, ablate them, gate on the effect."""

__version__ = "0.1.0"
