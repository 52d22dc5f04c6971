"""What ties vetting to pytest: collection, fixtures, the controller and the workers.

Nothing is measured or decided here, and nothing below knows pytest. Torch-free.
"""
