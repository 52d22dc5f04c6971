"""From a reference to verified files, and from these to a model and its tokenizer.

What such a model is made of is found in :mod:`robustness.anatomy`, what it is asked in
:mod:`robustness.scoring`. Torch-free.
"""
