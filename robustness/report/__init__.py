"""What a run found, told to people and programs.

``results`` is the one typed model of it, ``collected`` and ``merge`` make one, and each format is a
module that ``reporters`` names. Nothing is measured here. Torch-free.
"""
