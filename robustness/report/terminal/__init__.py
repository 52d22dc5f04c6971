"""What a terminal shows before, during and after a run, and what a scan shows.

Lines of text are made here; who prints them, and when, is decided above. Torch-free.
"""
