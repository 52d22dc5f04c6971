"""What is switched off in a model, as plain data and as hooks; simulated int8; resuming a pass.

Where the places are is found in :mod:`robustness.anatomy`; what ablation costs is measured above.
Imports torch at module level, but for `ablation`, `interventions`.
"""
