"""What a model computes on a few text blocks, reduced to what the activation rules look at.

Text blocks run one by one, without padding, and hooks reduce every tensor in float64 as it passes:
nothing is kept that grows with the positions. Imports torch at module level.
"""
