"""Downstream tasks: labelled examples, a model's predictions on them, and what ablation costs."""
