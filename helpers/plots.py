"""Figures that several notebooks share. Each function takes data and returns a figure; none knows a model or a file."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.patches import FancyBboxPatch
from matplotlib.transforms import Affine2D
from torch import Tensor

from helpers.prediction import TopTokens, visible

# Okabe and Ito's colours, which colour-blind eyes can tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", BLACK)
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "^", "s", "D")
PAPER = "#F7F7F7"  # of the card that each figure is drawn on: no colour of text can be read well on a white page and on a dark one
RIM = 0.12  # inches between the end of the card and what is drawn on it
CHINESE = (
    *("Noto Sans CJK TC", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans TC", "Noto Sans SC", "Source Han Sans TC"),  # Linux
    *("PingFang TC", "PingFang SC", "PingFang HK", "Heiti TC", "STHeiti", "Hiragino Sans GB"),  # macOS
    *("Microsoft JhengHei", "Microsoft YaHei", "SimHei", "Arial Unicode MS", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
)
DIVERGING = LinearSegmentedColormap.from_list("blue-white-orange", [BLUE, "white", ORANGE])  # below zero, zero, above


def canvas(width: float, height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of ``width`` x ``height`` inches and its axes, closed at once so that a notebook shows it once and not twice.

    It lies on a light card with a rim of its own, and can be read on a dark page as well.
    """
    fig, axes = plt.subplots(rows, figsize=(width, height), layout="constrained", **options)
    plt.close(fig)
    fig.patch.set_alpha(0)
    inches = Affine2D().scale(1 / width, 1 / height) + fig.transFigure
    card = FancyBboxPatch((0, 0), width, height, f"round,pad=0,rounding_size={RIM}", facecolor=PAPER, edgecolor="none", zorder=-1)
    card.set_transform(inches)
    fig.add_artist(card)
    fig.get_layout_engine().set(w_pad=RIM, h_pad=RIM)
    for ax in fig.axes:
        ax.set_facecolor("none")
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def legend(fig: Figure, *content: Sequence[Any], loc: str = "outside upper left", **options: Any) -> None:
    """A legend outside the axes, where it covers nothing."""
    fig.legend(*content, loc=loc, frameon=False, fontsize=9, borderaxespad=72 * RIM / 9, **options)


def panels(n: int, width: float, height: float, spare: float = 0.0) -> tuple[Figure, list[Axes]]:
    """``n`` panels of ``width`` x ``height`` inches, and ``spare`` inches to the right of them.

    No row has more than five or is wider than a notebook shows without making it smaller.
    """
    rows = ceil(n / max(1, min(5, int(10.6 / width))))
    columns = ceil(n / rows)
    fig, axes = canvas(width * columns + spare, height * rows, rows=rows, ncols=columns, squeeze=False)
    for ax in axes.flat[n:]:
        ax.set_visible(False)
    return fig, list(axes.flat[:n])


def plain(text: str) -> str:
    """Text as it is to be drawn: matplotlib would take dollar signs for formulas, and warn of a letter that no font here has.

    Such a letter is written as Python's ``ascii`` writes it.
    """
    return "".join(letter if letter == "\n" or _has(letter) else ascii(letter)[1:-1] for letter in text).replace("$", r"\$")


def fonts() -> list[str]:
    """The fonts of all figures: the usual one first, then the first of ``CHINESE`` that this machine has."""
    installed = {font.name for font in fontManager.ttflist}
    return ["sans-serif", *[font for font in CHINESE if font in installed][:1]]


plt.rcParams.update({"font.family": fonts(), "savefig.pad_inches": 0})  # a figure ends where its card ends


@cache
def _has(letter: str) -> bool:
    """Is there a font that can draw this letter?"""
    return any(get_font(findfont(FontProperties(family=[font]))).get_char_index(ord(letter)) for font in plt.rcParams["font.family"])


def side_by_side(names: Iterable[str], width: float) -> int:
    """How many columns a legend with these names should have: at most three that fit into ``width`` inches, its rows of like length."""
    different = set(names)
    fit = max(1, min(3, int(13.2 * width) // (8 + max(map(len, different), default=0))))
    return ceil(len(different) / max(1, ceil(len(different) / fit))) or 1


def few_ticks(n: int) -> range:
    """Numbers from 0 to ``n`` - 1 to be written on an axis: all of them, or every second, third … one where they would touch."""
    return range(0, n, 1 + (n - 1) // 18)


def next_token_bars(top: TopTokens) -> Figure:
    """The most likely next tokens as bars, the best one at the top; a dot stands for a space."""
    fig, ax = canvas(6.4, 0.6 + 0.28 * len(top.tokens))
    places = range(len(top.tokens))
    ax.barh(places, top.probs, color=BLUE)
    ax.set_yticks(places, [plain(visible(token)) for token in top.tokens])
    for place, prob in zip(places, top.probs, strict=True):
        ax.text(prob, place, f" {prob:.1%}", va="center", color=BLACK)
    ax.set(xlim=(0, 1.12), xlabel="probability of being the next token")
    ax.invert_yaxis()
    return fig


def estimate_scatter(estimates: Sequence[float], measured: Sequence[float], labels: Sequence[str]) -> Figure:
    """Estimated against measured effects, with the diagonal on which both are equal; the outermost points are named."""
    fig, ax = canvas(5.2, 5.2)
    ends = [min([*estimates, *measured, 0]), max([*estimates, *measured, 0])]
    ax.plot(ends, ends, "--", color=GREY, zorder=1)
    ax.plot(estimates, measured, "o", color=BLUE, markersize=4, alpha=0.7)
    for at in outermost(estimates, measured):
        below = measured[at] < estimates[at]  # a name stands away from the dashed line
        side = dict(xytext=(6, -3) if below else (-6, 3), ha="left" if below else "right")
        ax.annotate(plain(labels[at]), (estimates[at], measured[at]), textcoords="offset points", va="center", fontsize=8, **side)
    varied = len(set(estimates)) > 1 and len(set(measured)) > 1
    correlation = f"{np.corrcoef(estimates, measured)[0, 1]:.2f}" if varied else "undefined"
    ax.set_title(f"correlation {correlation}   (dashed: estimate = measurement)", fontsize=10)
    ax.set(xlabel="estimated effect (change of the metric)", ylabel="measured effect (change of the metric)", aspect="equal")
    return fig


def outermost(xs: Sequence[float], ys: Sequence[float], n: int = 5) -> list[int]:
    """Up to ``n`` points that lie farthest from zero, without those whose labels would lie on another one's."""
    span = max([*xs, *ys, 0]) - min([*xs, *ys, 0]) or 1.0
    kept: list[int] = []
    for at in sorted(range(len(xs)), key=lambda at: -abs(xs[at]) - abs(ys[at])):
        if len(kept) < n and all(abs(xs[at] - xs[k]) > 0.25 * span or abs(ys[at] - ys[k]) > 0.05 * span for k in kept):
            kept.append(at)
    return kept


def class_lines(
    lines: Mapping[str, Sequence[float]], ylabel: str, xlabel: str = "layer", reference: Mapping[str, float] | None = None, start: int = 0
) -> Figure:
    """One line for each name over the layers, of which the first is ``start``; references are dashed levels that hold for all layers."""
    columns = side_by_side([*lines, *(reference or {})], 6.6)
    fig, ax = canvas(6.6, 2.9 + 0.2 * ((len(lines) + len(reference or {})) // columns))
    for number, (name, values) in enumerate(lines.items()):
        style = dict(color=COLOURS[number % len(COLOURS)], linestyle=STYLES[number // len(COLOURS) % len(STYLES)])
        style |= dict(marker=MARKERS[number % len(MARKERS)], markersize=4)
        ax.plot(range(start, start + len(values)), values, label=plain(name), **style)
    for number, (name, level) in enumerate((reference or {}).items()):
        ax.axhline(level, color=GREY, linestyle=STYLES[(number + 1) % len(STYLES)], label=plain(name))
    ax.set_xticks([start + tick for tick in few_ticks(max(map(len, lines.values())))])
    ax.set(xlabel=plain(xlabel), ylabel=plain(fill(ylabel, 28)))
    legend(fig, ncols=columns)
    return fig


def patch_maps(maps: Mapping[str, Float[Tensor, "layer column"]], columns: Sequence[str], label: str) -> Figure:
    """What a patch at each layer and each position or head does: a panel for each title, orange above zero and blue below.

    All panels share one scale, up to the largest effect. Few columns have their numbers written in.
    """
    limit = max(values.abs().max().item() for values in maps.values()) or 1.0
    n_rows, n_columns = max(map(len, maps.values())), len(columns)
    upright = max(map(len, columns)) * n_columns > 34
    width = min(6.0, 0.7 + max(0.42 if n_columns <= 8 else 0.36, 0 if upright else 0.08 * max(map(len, columns))) * n_columns)
    fig, axes = panels(len(maps), width, 0.9 + 0.24 * n_rows + (0.08 * max(map(len, columns)) if upright else 0), spare=0.9)
    for ax, (title, values) in zip(axes, maps.items(), strict=True):
        image = ax.imshow(values.detach().cpu().numpy(), cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
        ax.set_xticks(range(n_columns), [plain(name) for name in columns], rotation=90 if upright else 0, fontsize=8)
        ax.set_yticks(few_ticks(len(values)))
        ax.set_title(plain(title), fontsize=9)
        ax.spines[:].set_visible(True)
        if n_columns <= 8:
            _write_numbers(ax, values, limit)
    axes[0].set_ylabel("layer")
    fig.colorbar(image, ax=axes, label=plain(fill(label, 40)), fraction=0.03, pad=0.02, aspect=30)
    return fig


def _write_numbers(ax: Axes, values: Float[Tensor, "layer column"], limit: float) -> None:
    """Writes the values that can be seen into their squares."""
    for layer, row in enumerate(values.tolist()):
        for column, value in enumerate(row):
            if abs(value) >= 0.05 * limit:
                colour = "white" if value < -0.92 * limit else "black"  # the darkest blue is darker than the darkest orange
                ax.text(column, layer, f"{value:.2f}" if limit < 3 else f"{value:.1f}", ha="center", va="center", fontsize=7, color=colour)


def report_card(report: Mapping[str, Any]) -> Figure:
    """The report card: for each row a dot, its 95 % interval, and a mark at the bar that it should reach."""
    shares = [row for row in report["rows"] if row["unit"] == "share"]
    others = [row for row in report["rows"] if row["unit"] != "share"]
    parts = [rows for rows in (shares, others) if rows]
    heights = [len(rows) + 1.5 for rows in parts]
    fig, axes = canvas(8, 0.26 * sum(heights) + 0.4, rows=len(parts), squeeze=False, height_ratios=heights)
    for ax, rows in zip(axes[:, 0], parts, strict=True):
        _rows(ax, rows, scale=100 if rows is shares else 1)
    fig.suptitle("dot: measured, with its 95 % interval     upright mark: the bar, set before measuring", fontsize=9)
    if shares:
        axes[0, 0].set(xlim=(0, 104), xlabel="held-out questions answered as they should be, in %")
    if others:
        axes[-1, 0].set(xlim=(0, None), xlabel="logits, or ratio")
    return fig


def _rows(ax: Axes, rows: Sequence[Mapping[str, Any]], scale: float) -> None:
    """Draws the rows of one unit, the first at the top: green where the bars hold, orange where one is missed, else blue."""
    for place, row in enumerate(rows):
        value, low, high = (scale * row[key] for key in ("value", "low", "high"))
        ax.plot([low, high], [place, place], color=GREY, linewidth=2, zorder=1)
        colour = BLUE if row.get("at_least") is None and row.get("at_most") is None else GREEN if holds(row) else ORANGE
        ax.plot(value, place, "o", color=colour, zorder=3)
        for bar in (row.get("at_least"), row.get("at_most")):
            if bar is not None:
                ax.plot(scale * bar, place, "|", color=BLACK, markersize=13, markeredgewidth=1.6, zorder=2)
    ax.set_yticks(range(len(rows)), [plain(f"{row['name']}{'' if holds(row) else '  (missed)'}") for row in rows], fontsize=9)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.3)


def holds(row: Mapping[str, Any]) -> bool:
    """Does a row of the report card keep its bars? A row without a bar does."""
    least, most = row.get("at_least"), row.get("at_most")
    return (least is None or row["value"] >= least) and (most is None or row["value"] <= most)


def learning_curves(report: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """Some shares of the report card over the tokens read so far, one small panel each, since many lines in one would cross."""
    points = checkpoints(report)
    n_rows = max(1, -(-len(names) // 4))
    fig, axes = canvas(10, 1.85 * n_rows + 0.4, rows=n_rows, ncols=4, sharex=True, sharey=True, squeeze=False)
    for place, ax in enumerate(axes.flat):
        ax.set_visible(place < len(names))
        if place < len(names):
            line = [(p["tokens"] / 1e6, 100 * p["values"][names[place]]) for p in points if names[place] in p["values"]]
            ax.plot(*zip(*line, strict=True), "o-", color=BLUE, markersize=4)
            ax.set_title(plain(fill(names[place], 30)), fontsize=9)
            ax.tick_params(labelbottom=place + 4 >= len(names))  # no panel is below these
            ax.grid(alpha=0.3)
    axes[0, 0].set_ylim(-4, 104)
    fig.supxlabel("million tokens read", fontsize=9)
    fig.supylabel("held-out questions answered as they should be, in %", fontsize=9)
    return fig


def checkpoints(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The earlier checkpoints of a report, in the order of training."""
    return sorted(report["checkpoints"], key=lambda point: point["tokens"])
