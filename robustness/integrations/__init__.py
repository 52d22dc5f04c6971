"""The package within other libraries' machinery: the Trainer of transformers.

Only what these libraries call belongs here. Torch-free but for `transformers`.
"""
