"""Rules on hidden states, as the model computes them on a few text blocks of the corpus."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustness.errors import RuleError
from robustness.outliers.outliers import Detection, Outlier
from robustness.outliers.rules.common import (
    any_of,
    at_least,
    by_magnitude,
    layers_needed,
    most_extreme,
    tail_share,
)
from robustness.outliers.rules.summaries import DenseInputs, LayerOutputs


def llm_int8(
    inputs: DenseInputs,
    *,
    threshold: float = 6.0,
    min_layer_share: float = 0.25,
    min_position_share: float = 0.06,
) -> Detection:
    """The criterion of Dettmers et al. 2022 (LLM.int8(), arXiv 2208.07339, section 3).

    At the inputs of the attention projections and of the FFN's expansion, a feature is an outlier
    where some |value| is at least ``threshold`` in at least ``min_layer_share`` of the layers, and
    at ``min_position_share`` of the sequence positions, counted over all these hidden states. The
    threshold is absolute, so nothing is defined by chance.

    Raises:
        ValueError: if the inputs were counted at another threshold.
    """
    if inputs.threshold != threshold:
        raise ValueError(f"inputs were counted at {inputs.threshold}, not at {threshold}")
    per_layer = _largest_per_layer(inputs)
    share = inputs.hits.sum(axis=0) / (len(inputs.hits) * inputs.positions)  # (D,)
    flagged = per_layer >= threshold
    needed = layers_needed(min_layer_share, inputs.n_layers)
    chosen = (flagged.sum(axis=0) >= needed) & (share >= min_position_share)
    dims = np.flatnonzero(chosen).tolist()
    return Detection(
        rule=(
            f"llm-int8: some |value| of at least {threshold:g} in at least {needed} of "
            f"{inputs.n_layers} layers, and at {100 * min_position_share:g} % of the positions"
        ),
        outliers=tuple(
            _outlier(
                dim, flagged, {"|value|": per_layer}, {"share_of_positions": float(share[dim])}
            )
            for dim in dims
        ),
        by_chance=None,
        magnitude=by_magnitude(per_layer.max(axis=0), exclude=dims),
        details={"positions": inputs.positions, "hidden_states": len(inputs.hits)},
    )


def massive(
    outputs: LayerOutputs, *, threshold: float = 100.0, median_factor: float = 1000.0
) -> Detection:
    """Massive activations (Sun, Chen, Kolter and Liu 2024, arXiv 2402.17762).

    A dimension is an outlier where, behind some layer and in some text block, a |value| exceeds
    ``threshold`` and is at least ``median_factor`` times the median |value| of that hidden state,
    over all positions and features. Both are fixed, so nothing is defined by chance.
    """
    largest, median = outputs.largest, outputs.median_abs[:, :, None]
    both = (largest > threshold) & (largest >= median_factor * median)
    flagged = np.asarray(both.any(axis=1))  # (L, D)
    dims = np.flatnonzero(flagged.any(axis=0)).tolist()
    per_layer = largest.max(axis=1)
    ratio = np.divide(largest, median, out=np.full_like(largest, np.inf), where=median > 0)
    ratio = np.where(largest > 0, ratio, 0).max(axis=1)
    return Detection(
        rule=(
            f"massive: some |value| above {threshold:g} and at least {median_factor:g} times the "
            f"median in any of {len(flagged)} layers"
        ),
        outliers=tuple(
            _outlier(dim, flagged, {"|value|": per_layer, "multiple of the median": ratio})
            for dim in dims
        ),
        by_chance=None,
        magnitude=by_magnitude(per_layer.max(axis=0), exclude=dims),
        details={
            "largest": per_layer.max(axis=1).tolist(),
            "median": outputs.median_abs.mean(axis=1).tolist(),
        },
    )


def variance(outputs: LayerOutputs, *, factor: float = 5.0) -> Detection:
    """The criterion of Rudman, Chen and Eickhoff 2023 (arXiv 2310.17715).

    Over the sentence embeddings of the last layer, Var(x_i) >= ``factor`` * mean_j Var(x_j). A text
    block is a sentence here; its embedding is the last layer's output at the first position for
    masked models, at the last one for causal models.

    By chance: with independent Gaussian features of equal variance, a feature's share of the summed
    variances is Beta((B - 1)/2, (D - 1)(B - 1)/2); the expected number is D times its tail.

    Raises:
        RuleError: if there are fewer than two text blocks, or D is smaller than the factor.
    """
    n_sentences, hidden_size = outputs.sentences.shape
    if n_sentences < 2:
        raise RuleError(
            "rule variance compares text blocks and there is only one; set rules.text_blocks to 2 "
            "or more, or name a longer corpus"
        )
    if factor >= hidden_size:
        raise RuleError(
            f"rule variance cannot flag anything at factor = {factor:g} with {hidden_size} "
            f"dimensions: no variance is more than {hidden_size} times their mean; set a smaller "
            "rules.variance.factor"
        )
    n_layers = len(outputs.mean_square)
    variances = outputs.sentences.var(axis=0, ddof=1)  # (D,)
    ratio = variances / mean if (mean := variances.mean()) > 0 else np.zeros(hidden_size)
    flagged = np.zeros((n_layers, hidden_size), dtype=np.bool_)
    flagged[-1] = ratio >= factor
    dims = np.flatnonzero(flagged[-1]).tolist()
    per_layer = np.broadcast_to(ratio, flagged.shape)
    return Detection(
        rule=(
            f"variance: at least {factor:g} times the mean variance over {n_sentences} text blocks "
            "behind the last layer"
        ),
        outliers=tuple(
            _outlier(dim, flagged, {"multiple of the mean variance": per_layer}) for dim in dims
        ),
        by_chance=hidden_size * _beta_tail(factor / hidden_size, n_sentences - 1, hidden_size),
        magnitude=by_magnitude(ratio, exclude=dims),
        details={"principal_dimension": int(ratio.argmax()), "text_blocks": n_sentences},
    )


def kurtosis(
    outputs: LayerOutputs, *, n_std: float = 6.0, min_layer_share: float = 0.5
) -> Detection:
    """Heavy tails of the hidden states (He et al. 2024; Bondarenko et al. 2023), and who has them.

    The details give, per layer, He et al.'s Kurt = mean_j(s_j⁴) / mean_j(s_j²)² with s_j the root
    mean square of feature j, from 1 (all alike) to D (one alone), and their mean over tokens of max
    to median; Bondarenko et al.'s kurtosis and largest |x| of a sequence's flattened values,
    averaged over sequences. None of these names a dimension. What does is the outlier rule of that
    line of work: a dimension is flagged in a layer where, in some text block, a value lies more
    than ``n_std`` standard deviations from the mean of all its values. That it is to be so in
    ``min_layer_share`` of the layers is ours: without it, one token in one layer decides.

    Raises:
        RuleError: if the text blocks have so few values that none can lie that far out.
    """
    n_layers, hidden_size = outputs.mean_square.shape
    n_values = int(outputs.tokens.max()) * hidden_size
    if most_extreme(n_values) <= n_std:
        raise RuleError(
            f"rule kurtosis cannot flag anything at n_std = {n_std:g} in text blocks of "
            f"{n_values} values: none can lie further out than {most_extreme(n_values):.2f} "
            "standard deviations; set a smaller rules.kurtosis.n_std"
        )
    mean, std = outputs.mean[:, :, None], outputs.std[:, :, None]
    furthest = np.maximum(outputs.highest - mean, mean - outputs.lowest)  # (L, B, D)
    z = np.divide(furthest, std, out=np.zeros_like(furthest), where=std > 0).max(axis=1)  # (L, D)
    flagged = z > n_std
    needed = layers_needed(min_layer_share, n_layers)
    dims = np.flatnonzero(flagged.sum(axis=0) >= needed).tolist()
    by_layer = any_of(int(outputs.tokens.sum()), tail_share(n_std))
    return Detection(
        rule=f"kurtosis: values beyond {n_std:g} std in at least {needed} of {n_layers} layers",
        outliers=tuple(_outlier(dim, flagged, {"std": z}) for dim in dims),
        by_chance=hidden_size * at_least(needed, n_layers, by_layer),
        magnitude=by_magnitude(z.max(axis=0), exclude=dims),
        details={
            "kurt": he_kurtosis(outputs.mean_square).tolist(),
            "max_to_median": _over_tokens(outputs.max_to_median, outputs.tokens).tolist(),
            "kurtosis": outputs.kurtosis.mean(axis=1).tolist(),
            "largest": outputs.largest.max(axis=2).mean(axis=1).tolist(),
        },
    )


def he_kurtosis(mean_square: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kurt = mean_j(s_j⁴) / mean_j(s_j²)² of He et al. 2024 (arXiv 2405.19279), in [1, D].

    Of the features' mean squares, shape (L, D), per layer; 1 where all features are 0.
    """
    square = mean_square.mean(axis=1) ** 2
    fourth = (mean_square**2).mean(axis=1)
    return np.asarray(np.divide(fourth, square, out=np.ones_like(square), where=square > 0))


def _over_tokens(values: NDArray[np.float64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over all tokens of text blocks' means, (L, B) -> (L,)."""
    return np.asarray(np.average(values, axis=1, weights=tokens))


def _largest_per_layer(inputs: DenseInputs) -> NDArray[np.float64]:
    largest = np.zeros((inputs.n_layers, inputs.largest.shape[1]))
    np.maximum.at(largest, inputs.layer, inputs.largest)
    return largest


def _outlier(
    dim: int,
    flagged: NDArray[np.bool_],
    statistics: dict[str, NDArray[np.float64]],
    details: dict[str, Any] | None = None,
) -> Outlier:
    """One dimension with each statistic, shape (L, D), in the layers in which it is flagged."""
    layers = np.flatnonzero(flagged[:, dim])
    return Outlier(
        dim=dim,
        layers=tuple(layers.tolist()),
        statistics={
            name: tuple(values[layers, dim].tolist()) for name, values in statistics.items()
        },
        details=details or {},
    )


def _beta_tail(x: float, freedom: int, hidden_size: int) -> float:
    """P(X >= x), X ~ Beta(a, b) with a = freedom / 2 and b = (hidden_size - 1) a.

    Simpson's rule over log X: the density is smooth there, and no library for it is a dependency.
    """
    a, b = freedom / 2, (hidden_size - 1) * freedom / 2
    log_constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    t = np.linspace(math.log(x), 0.0, 8193)
    value = np.exp(t)
    remainder = np.maximum(-np.expm1(t), 1e-300)  # 1 - X
    density = np.exp(log_constant + a * t + (b - 1) * np.log(remainder)) * (value > 0)  # times X
    weights = np.ones(len(t))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float((weights * density).sum() * (t[1] - t[0]) / 3)
