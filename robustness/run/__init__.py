"""The plan of a run: its checkpoints, tasks and checks, what it will cost, and its shards.

A plan is plain data that travels to workers; how they are started is left to pytest and to the
fleet. Torch-free.
"""
