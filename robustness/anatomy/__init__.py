"""What a model is made of, found by running it: stacks of layers, sites and their parameters.

Nothing is measured or switched off here, and no architecture is named. Imports torch at module
level, but for `parameters`, `recorded`, `site_weights`, `stacks`.
"""
