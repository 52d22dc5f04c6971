"""Thresholds and settings: what a policy file and the command line say, strictly validated.

Every check brings its own limits; here they come together. Torch-free.
"""
