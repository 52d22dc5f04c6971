"""./robustness/report/markdown."""
