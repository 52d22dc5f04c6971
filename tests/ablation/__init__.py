"""./tests/ablation."""
