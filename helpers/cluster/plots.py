"""Figures of the lessons on a cluster of neurons; data goes in, a figure comes out."""

from collections.abc import Mapping, Sequence
from textwrap import fill

from matplotlib.figure import Figure

from helpers.plots import BLUE, COLOURS, GREY, MARKERS, canvas, legend, plain, side_by_side
from helpers.stats import wilson


def relation_bars(
    shares: Mapping[str, Mapping[str, float]], xlabel: str, marks: Sequence[float] = (), counts: Sequence[int] = ()
) -> Figure:
    """For each relation a bar, in the order given, and a marker for each other method; ``shares``: relation, then method, first the bar.

    ``marks`` are dashed lines at levels that matter; with ``counts``, the cases of each relation, a bar has its 95 % interval (Wilson).
    """
    methods = list(next(iter(shares.values())))
    fig, ax = canvas(7.0, 1.0 + 0.27 * len(shares))
    for place, own in enumerate(shares.values()):
        bar = ax.barh(place, 100 * own[methods[0]], color=BLUE, alpha=0.55)
    for place, (own, n) in enumerate(zip(shares.values(), counts, strict=bool(counts))):
        ax.plot([100 * end for end in wilson(round(own[methods[0]] * n), n)], [place, place], color=BLUE, linewidth=1)
    dots = []
    for at, name in enumerate(methods[1:]):
        style = dict(color=COLOURS[1 + at % 5], markersize=5, clip_on=False, zorder=3)  # whole at 0 and at 100
        rows = [place + 0.16 * (at - (len(methods) - 2) / 2) for place in range(len(shares))]  # so that none covers another one
        dots += ax.plot([100 * own[name] for own in shares.values()], rows, MARKERS[at % 4], **style)
    for level in marks:
        ax.axvline(100 * level, color=GREY, linestyle="--", linewidth=1)
    ax.set_yticks(range(len(shares)), [plain(name) for name in shares])
    ax.set(xlim=(0, 103), ylim=(len(shares) - 0.4, -0.6), xlabel=plain(xlabel))
    legend(fig, [bar, *dots], [plain(name) for name in methods], ncols=side_by_side(methods, 7.0))
    return fig


def size_curves(
    sizes: Sequence[float],
    lines: Mapping[str, tuple[Sequence[float], Sequence[tuple[float, float]]]],
    xlabel: str,
    ylabel: str,
    levels: Sequence[float] = (),
) -> Figure:
    """A value with its 95 % interval against a size on a logarithmic axis; a line for each name, dashed lines at some levels."""
    columns = side_by_side(lines, 6.6)
    fig, ax = canvas(6.6, 3.1 + 0.2 * (len(lines) // columns))
    for number, (name, (values, intervals)) in enumerate(lines.items()):
        colour = GREY if "random" in name else COLOURS[number % len(COLOURS)]
        ax.plot(sizes, values, marker=MARKERS[number % len(MARKERS)], markersize=4, color=colour, label=plain(name))
        ax.fill_between(sizes, *zip(*intervals, strict=True), color=colour, alpha=0.15, linewidth=0)
    for level in levels:
        ax.axhline(level, color=GREY, linestyle=":", linewidth=1)
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{size:,g}" for size in sizes], fontsize=8)
    ax.minorticks_off()
    ax.set(xlabel=plain(xlabel), ylabel=plain(fill(ylabel, 28)))
    legend(fig, ncols=columns)
    return fig
