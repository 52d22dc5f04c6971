"""What a model is asked about a text block, by the way it was trained, and its forward passes.

A module holds one way of asking: pure functions of a text block and a seed that return rows;
:mod:`robustness.scoring.questions` chooses among them. Numbers are kept and reused above.
Torch-free but for `discriminator`, `divergence`, `forward`.
"""
