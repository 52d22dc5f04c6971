"""Weights in other forms than safetensors, made a plain checkpoint folder in the store once.

Pickles and adapters; GGUF has a room of its own. Torch-free.
"""
