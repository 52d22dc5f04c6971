"""A run over the machines of a cluster: one task per checkpoint, merged into one verdict.

A task is pytest in a process of its own; nothing is measured here. Torch-free.
"""
