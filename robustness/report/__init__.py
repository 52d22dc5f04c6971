"""What a run found, as facts, and those facts read back, merged and written for machines.

A folder each holds what is written for readers; nothing is measured or decided here. Torch-free.
"""
