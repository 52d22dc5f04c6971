"""Markdown for reviews, summaries of CI jobs and model cards, in which names stay text.

huggingface_hub is imported where it is needed. Torch-free.
"""
