"""The HTML report of a run: one file that needs no network, with its figures.

It is made of the facts of a run alone. Torch-free.
"""
