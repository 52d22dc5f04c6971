"""Vet language-model checkpoints: find outlier dimensions, ablate them, gate on the effect."""

__version__ = "0.1.0"
