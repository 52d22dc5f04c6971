"""The commands of the console program ``robustness``, one module each, and what they show live.

A command reads its options and hands on; what it shows is written in :mod:`robustness.report`.
Heavy imports wait until a command runs. Torch-free.
"""
