"""From a reference to text, and from text to text blocks, the unit of measurement.

What a model is asked about a text block is in :mod:`robustness.scoring`. Torch-free.
"""
