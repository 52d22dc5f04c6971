"""Mean features of the intact model, which an ablation by ``mean`` puts in its place."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from robustness.ablation.ablation import Ablation
from robustness.errors import MeasurementError
from robustness.store.store import Record, Store

if TYPE_CHECKING:
    from robustness.ablation.edits import Sum
    from robustness.ablation.hooks import Means


def stored_means(
    store: Store,
    ablation: Ablation | None,
    *,
    identity: Mapping[str, Any],
    sums: "Callable[[Ablation], Mapping[int, Sum]]",
) -> "Means | None":
    """The means where an ablation puts them, by layer, from the store if they are known.

    Args:
        store: where they are kept.
        ablation: that needs them; ``None`` if none does.
        identity: what they are the means of: part of their key.
        sums: the intact model's summed features at the ablation's places, by layer.

    Raises:
        MeasurementError: if they are not finite.
    """
    if ablation is None:
        return None
    import torch

    key = {"means": 1, **identity, "site": ablation.site, "embeddings": ablation.embeddings}
    whole = replace(ablation, layers=None)
    (record,) = store.obtain([key], lambda _: _measured(sums(whole)))
    return {int(layer): torch.tensor(mean) for layer, mean in record["means"].items()}


def _measured(sums: "Mapping[int, Sum]") -> Record:
    means = {str(layer): (one.total / one.count).tolist() for layer, one in sums.items()}
    if not all(np.isfinite(mean).all() for mean in means.values()):
        raise MeasurementError(
            "the intact model's mean features are not finite numbers, so no feature can be "
            "replaced by its mean: use the mode 'zero'"
        )
    return {"means": means}
