"""./robustness/ablation."""
