"""A run as Markdown: for the summary of a CI job and for a model card.

It is made of the facts of a run alone. Torch-free.
"""
