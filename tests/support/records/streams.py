"""Streams of text blocks' differences and token counts, as looks at a ratio get them."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

nats = st.floats(-30, 30, allow_nan=False).map(lambda value: round(value, 3))
streams = st.lists(st.tuples(nats, st.integers(1, 40)), min_size=1, max_size=100)


def stream(n: int, *, mean: float = 1.0, std: float = 3.0, seed: int = 0) -> tuple[Any, Any]:
    """Differences in nats, and token counts, of text blocks that never were."""
    rng = np.random.default_rng(seed)
    return rng.normal(mean, std, n), rng.integers(8, 30, n)
