"""./robustness/corpus."""
