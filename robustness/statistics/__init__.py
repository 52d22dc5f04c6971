"""Deciding early and honestly: confidence sequences, decisions, and the verdicts they end in.

Pure functions of numbers: nothing here knows a model or a corpus. Torch-free.
"""
