"""Lines for the terminal: of a plan, of a run, and of a scan of the files alone.

Of pytest it knows only what an object that writes lines must be able to do. Torch-free.
"""
