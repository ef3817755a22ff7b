"""Figures of the lesson on one neuron; data goes in, a figure comes out."""

from collections.abc import Mapping, Sequence
from math import hypot, nan
from statistics import mean

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from helpers.plots import BLACK, BLUE, COLOURS, DIVERGING, GREY, STYLES, canvas, legend, panels, plain, side_by_side
from helpers.prediction import visible


def ablation_bars(bars: Mapping[str, tuple[float, float, float]], control: Mapping[str, Sequence[float]], ylabel: str) -> Figure:
    """For each kind of ablation a bar with its 95 % interval (value, low, high), and beside it a grey dot for each control."""
    fig, ax = canvas(6.4, 3.4)
    for place, (kind, (value, low, high)) in enumerate(bars.items()):
        bar = ax.bar(place - 0.16, value, width=0.36, color=BLUE, alpha=0.7)
        (interval,) = ax.plot([place - 0.16] * 2, [low, high], color=BLACK, linewidth=2)
        others = control.get(kind, ())
        (dots,) = ax.plot([place + 0.2 + offset for offset in spread(len(others), 0.2)], others, "o", color=GREY, markersize=4, alpha=0.7)
    ax.axhline(0, color=BLACK, linewidth=0.8)
    ax.set_xticks(range(len(bars)), [plain(kind) for kind in bars])
    ax.set(xlim=(-0.6, len(bars) - 0.4), xlabel="kind of ablation", ylabel=plain(ylabel))
    legend(fig, [bar, interval, dots], ["the neuron", "its 95 % interval", "control neurons"], ncols=3)
    return fig


def dose_curve(doses: Sequence[float], probs: Mapping[str, Sequence[float]], usual: tuple[float, float]) -> Figure:
    """The probability of each target word against the dose; the range that the neuron reaches by itself is shaded."""
    fig, ax = canvas(7.2, 3.6)
    for number, (word, line) in enumerate(probs.items()):
        style, colour = STYLES[number // len(COLOURS) % len(STYLES)], COLOURS[number % len(COLOURS)]
        ax.plot(doses, [100 * prob for prob in line], f"o{style}", color=colour, markersize=4, label=word_label(word))
    ax.axvspan(*usual, facecolor=GREY, edgecolor=GREY, alpha=0.25, zorder=0, label="what it reaches by itself")
    ax.set(xlabel="dose: the activation at which the neuron is held", ylabel="probability of the word, in %")
    ax.set_ylim(0, 1.05 * ax.get_ylim()[1])
    legend(fig, loc="outside right upper")
    return fig


def kind_bars(by_kind: Mapping[str, Sequence[float]], ylabel: str, others: Mapping[str, Sequence[float]] | None = None) -> Figure:
    """One row for each kind of prompt, the first at the top: the mean as a bar, each prompt as a dot, those about others in grey."""
    fig, ax = canvas(6.4, 0.9 + 0.36 * len(by_kind))
    for place, values in enumerate(by_kind.values()):
        ax.barh(place, mean(values) if values else 0, color=BLUE, alpha=0.45)
        ax.plot(values, [place - 0.15 + offset for offset in spread(len(values), 0.25)], "o", color=BLACK, markersize=3)
    for place, kind in enumerate(by_kind):
        values = (others or {}).get(kind, ())
        ax.plot(values, [place + 0.2 + offset for offset in spread(len(values), 0.25)], "o", color=GREY, markersize=2)
    ax.set_yticks(range(len(by_kind)), [plain(kind) for kind in by_kind])
    ax.axvline(0, color=BLACK, linewidth=0.8)
    ax.set(ylim=(len(by_kind) - 0.5, -0.5), xlabel=plain(ylabel))
    return fig


def word_bars(before: Mapping[str, float], after: Mapping[str, Mapping[str, float]]) -> Figure:
    """The probability of each word as a group of bars: before, and after each removal (``after``: its name, then the words)."""
    states = {"before": before, **after}
    height = 0.8 / len(states)
    fig, ax = canvas(6.4, 1.1 + (0.12 + 0.16 * len(states)) * len(before))
    for number, (label, probs) in enumerate(states.items()):
        values = [100 * probs.get(word, nan) for word in before]
        places = [place - 0.4 + (number + 0.5) * height for place in range(len(before))]
        ax.barh(places, values, height=0.9 * height, color=COLOURS[number % len(COLOURS)], label=plain(label))
    ax.set_yticks(range(len(before)), [word_label(word) for word in before])
    ax.set(ylim=(len(before) - 0.5, -0.5), xlabel="probability of the word, in %")
    legend(fig, ncols=side_by_side(states, 6.4))
    return fig


def jobs_histogram(values: Mapping[str, Sequence[float]], planted: float, xlabel: str) -> Figure:
    """How many jobs units have: a histogram for each kind of unit, and a line for one that was planted with a single job."""
    fig, ax = canvas(6.4, 3.2)
    bins = np.linspace(1, max(max(some) for some in values.values()) + 0.1, 25)
    for (label, some), colour in zip(values.items(), COLOURS, strict=False):
        ax.hist(some, bins, weights=[100 / len(some)] * len(some), color=colour, alpha=0.5, label=plain(label))
    ax.axvline(planted, color=BLACK, linestyle="--", label="planted, with one job")
    ax.set(xlabel=plain(xlabel), ylabel="share, in %")
    legend(fig, ncols=side_by_side(values, 6.4))
    return fig


def overlap_grid(matrices: Mapping[str, Float[Tensor, "feature feature"]]) -> Figure:
    """How much of each feature comes out as each other one: a coloured square for each title, all on one scale from -1 to 1."""
    fig, axes = panels(len(matrices), 1.9, 2.3, spare=0.9)
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=True):
        image = ax.imshow(matrix.detach().cpu().numpy(), cmap=DIVERGING, vmin=-1, vmax=1)
        ax.set_title(plain(title), fontsize=9)
        ax.spines[:].set_visible(True)
        ax.set(xticks=[], yticks=[])
    fig.supxlabel("feature", fontsize=9)
    fig.supylabel("feature", fontsize=9)
    fig.colorbar(image, ax=axes, label="overlap of two features")
    return fig


def feature_fan(weights: Mapping[str, Float[Tensor, "2 feature"]]) -> Figure:
    """Where toy models with two neurons put their features: an arrow for each in every panel, within the circle of length 1."""
    fig, axes = panels(len(weights), 2.2, 2.5)
    reach = 1.35 * max(1.0, *(directions.abs().max().item() for directions in weights.values()))
    for ax, (title, directions) in zip(axes, weights.items(), strict=True):
        _fan(ax, directions.T.tolist())
        ax.set_title(plain(title), fontsize=9)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    fig.supxlabel("weight of neuron 0", fontsize=9)
    fig.supylabel("weight of neuron 1", fontsize=9)
    return fig


def _fan(ax: Axes, arrows: Sequence[Sequence[float]]) -> None:
    """Draws features as numbered arrows from the middle, those too short for one as dots, and the circle of length 1."""
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, edgecolor=GREY, linestyle=":"))
    for number, (x, y) in enumerate(arrows):
        colour, length = COLOURS[number % len(COLOURS)], hypot(x, y)
        if length < 0.1:
            ax.plot(x, y, "o", color=colour, markersize=3)
            continue
        ax.annotate("", (x, y), (0, 0), arrowprops=dict(arrowstyle="-|>", color=colour, shrinkA=0, shrinkB=0))
        if length > 0.3:  # below that, numbers would lie on arrows
            ax.text(x + 0.18 * x / length, y + 0.18 * y / length, str(number), color=BLACK, fontsize=9, ha="center", va="center")


def score_pairs(scores: Sequence[float], controls: Sequence[float], xlabel: str) -> Figure:
    """Each neuron a row, the best explained at the top: the score of its explanation, and in grey the mean of random ones."""
    fig, ax = canvas(6.4, min(6.0, 2.6 + 0.08 * len(scores)))
    best, others = zip(*sorted(zip(scores, controls, strict=True), reverse=True), strict=True)
    for values, colour, label in ((best, BLUE, "its own explanation"), (others, GREY, "random explanations")):
        ax.plot(values, range(len(values)), "o", color=colour, markersize=4, label=f"{label}, mean {mean(values):.2f}")
        ax.axvline(mean(values), color=colour, linestyle="--", linewidth=1.2)
    ax.set(ylim=(len(scores) - 0.5, -0.5), yticks=[], xlabel=plain(xlabel), ylabel="neurons, best explained first")
    legend(fig, ncols=2)
    return fig


def word_label(word: str) -> str:
    """A word as it is to be drawn: without the space in front, unless it is nothing but blanks."""
    return plain(word.strip() or visible(word))


def spread(n: int, width: float) -> list[float]:
    """``n`` offsets between ``-width/2`` and ``width/2``, the same each time, so that dots of one place do not hide each other."""
    return [width * ((0.5 + at * 0.618034) % 1 - 0.5) for at in range(n)]
