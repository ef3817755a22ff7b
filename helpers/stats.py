"""Statistics that know no model and no file: 95 % intervals, the area under a curve, and ridge regression.

An interval says how far a measured share or mean may lie from the true one, as ``(low, high)``; the same numbers give the
same interval on every run.
"""

from collections.abc import Callable, Sequence
from math import atanh, sqrt, tanh
from statistics import mean, stdev

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

Z = 1.96  # a normal variable lies within this many standard deviations of its mean in 95 % of all cases
DRAWS = 2000  # resamples of a bootstrap

Numbers = Sequence[float] | Shaped[np.ndarray, "item"] | Float[Tensor, "item"] | Int[Tensor, "item"] | Bool[Tensor, "item"]
Interval = tuple[float, float]


def as_numbers(values: Numbers) -> list[float]:
    """Any row of numbers as a list. Raises ValueError where there is none, or one that is infinite or no number."""
    numbers = [float(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]
    if not numbers:
        raise ValueError("There are no values to average: was everything filtered out?")
    if not np.isfinite(numbers).all():
        raise ValueError("One of the values is infinite or not a number (NaN): look for a division by zero or a logarithm of zero.")
    return numbers


def wilson(successes: int, n: int) -> Interval:
    """The 95 % interval of a share (Wilson 1927); without any case it is the whole range."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre, half = p + Z * Z / (2 * n), Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    low, high = (centre - half) / (1 + Z * Z / n), (centre + half) / (1 + Z * Z / n)
    return max(0.0, min(low, p)), min(1.0, max(high, p))  # rounding never puts the share outside its interval


def mean_interval(values: Numbers) -> Interval:
    """The 95 % interval of a mean, from the normal distribution; for a few dozen values or more."""
    numbers = _two_or_more(values)
    half = Z * stdev(numbers) / sqrt(len(numbers))
    return mean(numbers) - half, mean(numbers) + half


def bootstrap_interval(values: Numbers, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The 95 % interval of a mean by resampling the items (Efron 1979, percentiles): it assumes no shape of their distribution."""
    numbers = np.array(_two_or_more(values))
    rng = np.random.RandomState(seed)  # numpy promises that this generator never changes
    means = [numbers[rng.randint(len(numbers), size=len(numbers))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(min(low, numbers.mean())), float(max(high, numbers.mean()))


def paired_interval(values: Numbers, others: Numbers, seed: int = 0) -> Interval:
    """The 95 % interval of the mean of ``values - others``, item by item (bootstrap over the items)."""
    return bootstrap_interval(paired_differences(values, others), seed)


def paired_differences(values: Numbers, others: Numbers) -> list[float]:
    """``values - others``, item by item. Raises ValueError unless there are equally many."""
    left, right = as_numbers(values), as_numbers(others)
    if len(left) != len(right):
        raise ValueError(f"Pairs need equally many values on both sides; here are {len(left)} and {len(right)}.")
    return [a - b for a, b in zip(left, right, strict=True)]


def difference_interval(value: float, interval: Interval, control: float, its_interval: Interval, correlation: float = 0.0) -> Interval:
    """The 95 % interval of ``value - control`` from an interval of each (Zou and Donner 2008; Newcombe 1998 for Wilson's intervals).

    ``correlation``: that of the two estimates, 0 for independent samples. The result keeps the asymmetry of both intervals.
    """
    (low, high), (control_low, control_high) = interval, its_interval
    down, up = value - low, high - value
    control_down, control_up = control - control_low, control_high - control
    below = sqrt(max(0.0, down**2 - 2 * correlation * down * control_up + control_up**2))
    above = sqrt(max(0.0, up**2 - 2 * correlation * up * control_down + control_down**2))
    return value - control - below, value - control + above


def paired_share_interval(hits: Sequence[float], others: Sequence[float]) -> Interval:
    """The 95 % interval of the difference of two shares of the same items (Newcombe 1998, Statistics in Medicine 17, 2635; method 10).

    Unlike a bootstrap it stays wide where both shares are 0, or all items agree. Raises ValueError unless there are equally many.
    """
    paired_differences(hits, others)  # checks
    n, pairs = len(hits), [(bool(hit), bool(other)) for hit, other in zip(hits, others, strict=True)]
    both, only, theirs, neither = (pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))
    product = both * neither - only * theirs
    if product > 0:
        product = max(product - n / 2, 0)
    sides = (both + only) * (theirs + neither) * (both + theirs) * (only + neither)
    correlation = product / sqrt(sides) if sides else 0.0
    own, control = both + only, both + theirs
    return difference_interval(own / n, wilson(own, n), control / n, wilson(control, n), correlation)


def cluster_interval(values: Numbers, clusters: Sequence[str], seed: int = 0, statistic: Callable = np.mean) -> Interval:
    """The 95 % interval of a mean (or another ``statistic``) by resampling whole clusters, such as all questions about one entity.

    Raises ValueError unless each value has its cluster, and there are two clusters at least.
    """
    numbers, names = np.array(as_numbers(values)), sorted(set(clusters))
    if len(numbers) != len(clusters):
        raise ValueError(f"Each value needs its cluster: there are {len(numbers)} values and {len(clusters)} clusters.")
    if len(names) < 2:
        raise ValueError("An interval over clusters needs two of them at least: ask about more entities.")
    own = np.searchsorted(np.array(names), np.array(clusters))
    rng = np.random.RandomState(seed)  # numpy promises that this generator never changes
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)  # how often each cluster was drawn
    found = [statistic(np.repeat(numbers, count[own])) for count in counts]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(min(low, statistic(numbers))), float(max(high, statistic(numbers)))


def auc_interval(auc: float, n_inside: int, n_outside: int) -> Interval:
    """The 95 % interval of an AUC from the numbers of cases inside and outside the class (Hanley and McNeil 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    variance = auc * (1 - auc) + (n_inside - 1) * (q1 - auc * auc) + (n_outside - 1) * (q2 - auc * auc)
    half = Z * sqrt(variance / (n_inside * n_outside))
    return max(0.0, auc - half), min(1.0, auc + half)


def correlation_interval(correlation: float, n: int) -> Interval:
    """The 95 % interval of a correlation of ``n`` pairs (Fisher 1921). Raises ValueError for fewer than four pairs."""
    if n < 4:
        raise ValueError(f"A correlation needs four pairs at least for an interval; here are {n}.")
    centre, half = atanh(max(-0.999999, min(0.999999, correlation))), Z / sqrt(n - 3)
    return min(tanh(centre - half), correlation), max(tanh(centre + half), correlation)


def _two_or_more(values: Numbers) -> list[float]:
    numbers = as_numbers(values)
    if len(numbers) < 2:
        raise ValueError("A single value has no interval: measure at least two.")
    return numbers


def auc(inside: Float[Tensor, "n_inside unit"], outside: Float[Tensor, "n_outside unit"]) -> Float[Tensor, "unit"]:
    """For each unit the chance that a value inside is above a value outside, draws counting half."""
    ordered, asked = outside.T.contiguous().sort().values, inside.T.contiguous()
    below = torch.searchsorted(ordered, asked) + torch.searchsorted(ordered, asked, right=True)
    return below.double().mean(1).div(2 * len(outside)).float()


def ridge(
    x: Float[Tensor, "item d_in"], y: Float[Tensor, "item d_out"], penalty: float
) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, "d_out"]]:
    """Weight and bias that minimise ``|x weight^T + bias - y|^2 + penalty |weight|^2`` (Hoerl and Kennard 1970), in float64.

    The bias costs nothing: inputs and outputs are centred first.
    """
    x_mean = x.double().mean(0)
    y_mean = y.double().mean(0)
    x = x.double() - x_mean
    y = y.double() - y_mean
    dual = len(x) < x.shape[1]  # weight = y^T (x x^T + penalty)^-1 x is the same map from a smaller system
    gram = x @ x.T if dual else x.T @ x
    gram.diagonal().add_(penalty)
    weight = y.T @ torch.linalg.solve(gram, x) if dual else torch.linalg.solve(gram, x.T @ y).T
    return weight, y_mean - weight @ x_mean
