"""The commands of the console program ``robustness``, and what they have in common.

A command reads its options and hands on; what it shows is written in :mod:`robustness.report`.
Ray and the terminal's libraries wait until a command runs. Torch-free.
"""
