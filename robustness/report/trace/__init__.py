"""The checkpoints of a training run over its steps, as lines and as a page.

Words, axes and the page's frame are those of the reports of runs. Torch-free.
"""
