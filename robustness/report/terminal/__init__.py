"""Lines for the terminal: of a plan, of a run, and of a scan of the files alone.

Nothing here is about pytest but what a writer must be able to do. Torch-free.
"""
