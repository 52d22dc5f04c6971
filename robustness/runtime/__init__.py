"""What every process stands on: threads, devices and precisions, libraries, printable text.

Nothing here knows a checkpoint, nor raises a ``RobustnessError``: errors stand above, since they
print text. Torch-free.
"""
