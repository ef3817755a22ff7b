"""Figures of the lessons on one layer; data goes in, a figure comes out."""

from collections.abc import Mapping, Sequence
from statistics import mean
from textwrap import fill

import matplotlib.pyplot as plt
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from helpers.plots import BLACK, COLOURS, DIVERGING, GREY, MARKERS, canvas, few_ticks, legend, panels, plain, side_by_side
from helpers.stats import wilson


def clouds(panels_of: Mapping[str, Float[Tensor, "point 2"]], groups: Mapping[str, int]) -> Figure:
    """Points in a plane, a panel for each title; ``groups`` says how many points belong to each kind, in their order. Crosses are means.

    Raises ValueError where the groups have more or fewer points than a panel.
    """
    size = 2.7 if len(panels_of) > 2 else 3.6
    fig, axes = panels(len(panels_of), size, size + 0.3)
    for ax, (title, points) in zip(axes, panels_of.items(), strict=True):
        if sum(groups.values()) != len(points):
            raise ValueError(f"The groups have {sum(groups.values())} points together, and {title!r} has {len(points)}: count them again.")
        start = 0
        for number, (group, n) in enumerate(groups.items()):
            part = points[start : start + n]
            start += n
            style = dict(color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)])
            ax.scatter(part[:, 0], part[:, 1], s=12, alpha=0.5, label=plain(group), **style)
            cross = ax.scatter(*part.mean(0).tolist(), s=160, marker="+", color=BLACK, linewidths=2.2, zorder=3)
        ax.set_title(plain(title), fontsize=9)
    fig.supxlabel("first principal component", fontsize=9)
    fig.supylabel("second principal component", fontsize=9)
    handles, names = axes[0].get_legend_handles_labels()
    legend(fig, [*handles, cross], [*names, "mean"], ncols=side_by_side([*names, "mean"], fig.get_figwidth()))
    return fig


def cosine_grid(cosines: Float[Tensor, "layer layer"], label: str) -> Figure:
    """The cosine between the directions of each two layers, as a coloured square from -1 to 1."""
    fig, ax = canvas(4.6, 3.9)
    image = ax.imshow(cosines.detach().cpu().numpy(), cmap=DIVERGING, vmin=-1, vmax=1)
    ticks, label = few_ticks(len(cosines)), plain(fill(label, 34))
    ax.set(xticks=ticks, yticks=ticks, xlabel=label, ylabel=label)
    ax.spines[:].set_visible(True)
    fig.colorbar(image, ax=ax, label="cosine")
    return fig


def task_grid(accuracy: Float[Tensor, "task column"], tasks: Sequence[str], columns: Sequence[str], xlabel: str) -> Figure:
    """Accuracy by task and layer (or other column), as squares from white, 0, to blue, 1."""
    upright = max(map(len, columns)) > 3
    width = max(2.4, min(0.42 * len(columns), 9.0))
    height = max(0.9, 0.3 * len(tasks)) + (0.085 * max(map(len, columns)) if upright else 0.2)
    fig, ax = canvas(width + 1.0 + 0.085 * max(map(len, tasks)), height + 0.6)
    image = ax.imshow(accuracy.detach().cpu().numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    shown = range(len(columns)) if upright or len(columns) <= 40 else few_ticks(len(columns))
    ax.set_xticks(shown, [plain(columns[at]) for at in shown], rotation=90 if upright else 0)
    ax.set_yticks(range(len(tasks)), [plain(task) for task in tasks])
    ax.set(xlabel=plain(xlabel))
    fig.colorbar(image, ax=ax, label="accuracy", ticks=[0, 0.5, 1], fraction=0.05, pad=0.02)
    return fig


def coverage(counts: Sequence[int], f1: Sequence[float], groups: Sequence[str], names: Sequence[str] = (), wanted: float = 0.8) -> Figure:
    """How well its best feature knows each concept, against how often it is named (logarithmic); dashed: what is wanted.

    ``names`` stand beside their points, where they are not empty.
    """
    fig, ax = canvas(6.6, 3.6)
    for number, group in enumerate(dict.fromkeys(groups)):
        own = [at for at, name in enumerate(groups) if name == group]
        style = dict(marker=MARKERS[number % len(MARKERS)], color=COLOURS[number % len(COLOURS)], markersize=5, alpha=0.7)
        ax.plot([counts[at] for at in own], [f1[at] for at in own], linestyle="", label=plain(group), **style)
    ax.axhline(wanted, color=GREY, linestyle="--", linewidth=1)
    ax.set_xscale("log")
    for at, name in enumerate(names):
        if name:
            ax.annotate(plain(name), (counts[at], f1[at]), xytext=(4, 3), textcoords="offset points", fontsize=7)
    ax.set(xlabel="how often the texts name it", ylabel="F1 of its best feature", ylim=(-0.03, 1.08))
    legend(fig, ncols=side_by_side(groups, 6.6))
    return fig


def rate_bars(groups: Mapping[str, Mapping[str, Sequence[bool]]], ylabel: str) -> Figure:
    """Shares of hits as bars with their 95 % intervals: a group for each kind of prompt or place, a bar for each thing that was done.

    The bars of a single group have their names below them, and a few bars have their shares above them.
    """
    kinds = list(dict.fromkeys(kind for bars in groups.values() for kind in bars))
    fig, ax = canvas(6.6, 3.3)
    for place, bars in enumerate(groups.values()):
        for kind, hits in bars.items():
            at = place + 0.8 * ((kinds.index(kind) + 0.5) / len(kinds) - 0.5)
            low, high = wilson(sum(hits), len(hits))
            share = 100 * mean(map(float, hits))
            ax.bar(at, share, width=0.7 / len(kinds), color=COLOURS[kinds.index(kind) % len(COLOURS)], alpha=0.75)
            ax.plot([at, at], [100 * low, 100 * high], color=BLACK, linewidth=2)
            if len(kinds) * len(groups) <= 8:  # a share of 0 has no bar to be seen
                ax.text(at, 100 * high + 1, f"{share:.0f} %", ha="center", va="bottom", fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[i % len(COLOURS)], alpha=0.75) for i in range(len(kinds))]
    ax.set(ylim=(0, 110), yticks=range(0, 101, 20), ylabel=plain(fill(f"{ylabel}, in %", 28)))
    if len(groups) == 1:
        middles = [0.8 * ((at + 0.5) / len(kinds) - 0.5) for at in range(len(kinds))]
        ax.set_xticks(middles, [plain(fill(kind, max(8, 64 // len(kinds)))) for kind in kinds])
        ax.set_xlabel(plain(next(iter(groups))))
        return fig
    ax.set_xticks(range(len(groups)), [plain(fill(group, max(8, 64 // len(groups)))) for group in groups])
    legend(fig, handles, [plain(kind) for kind in kinds], ncols=side_by_side(kinds, 6.6))
    return fig


def steering_lines(
    scales: Sequence[float],
    lines: Mapping[str, tuple[Sequence[float], Sequence[tuple[float, float]]]],
    ylabel: str,
    xlabel: str = "multiple of the vector",
) -> Figure:
    """A mean with its 95 % interval against the multiple of a vector that was added; a line for each vector, the last of several grey.

    The last is meant for the control: random directions.
    """
    columns = side_by_side(lines, 6.4)
    fig, ax = canvas(6.4, 2.9 + 0.2 * (len(lines) // columns))
    for number, (name, (means, intervals)) in enumerate(lines.items()):
        colour = GREY if 0 < number == len(lines) - 1 else COLOURS[number % len(COLOURS)]
        ax.plot(scales, means, marker=MARKERS[number % len(MARKERS)], color=colour, label=plain(name))
        ax.fill_between(scales, *zip(*intervals, strict=True), color=colour, alpha=0.15, linewidth=0)
    ax.axvline(0, color=BLACK, linewidth=0.8, linestyle=":")
    ax.set(xlabel=plain(xlabel), ylabel=plain(fill(ylabel, 28)))
    legend(fig, ncols=columns)
    return fig
