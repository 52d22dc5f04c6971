"""What a model computes on a few text blocks, reduced to what the activation rules look at.

Hooks see every layer's output, what its dense layers read and what its output writer makes of it.
Text blocks run one by one, without padding, and every tensor is reduced in float64 as it passes:
per layer a few numbers for each feature (and text block) are kept, nothing that grows with the
positions. Imports torch at module level.
"""
