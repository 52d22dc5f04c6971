"""What plugs into other libraries: a callback for the Trainer of transformers.

Only what these libraries call belongs here. Torch-free but for `transformers`.
"""
