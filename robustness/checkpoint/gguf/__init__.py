"""GGUF files: verified from their header, then written as a plain checkpoint folder once.

Torch-free.
"""
