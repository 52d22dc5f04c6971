"""./robustness/trace."""
