"""The checkpoints of a training run over its steps, as lines and as a page.

It shares words, axes and the page's frame with the reports of runs. Torch-free.
"""
