"""./robustness/anatomy."""
