"""Figures that several notebooks share. Each function takes data and returns a figure; none knows a model or a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.prediction import TopTokens, visible

# Okabe and Ito's colours, which colour-blind eyes can tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", BLACK)
STYLES = ("-", "--", "-.", ":")
CHINESE = ("Noto Sans CJK TC", "Noto Sans CJK JP", "PingFang TC", "Microsoft JhengHei", "Heiti TC", "WenQuanYi Zen Hei")


def canvas(width: float, height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of ``width`` x ``height`` inches and its axes, closed at once so that a notebook shows it once and not twice."""
    fig, axes = plt.subplots(rows, figsize=(width, height), layout="constrained", **options)
    plt.close(fig)
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def plain(text: str) -> str:
    """Text as it is to be drawn: matplotlib would take dollar signs for formulas."""
    return text.replace("$", r"\$")


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


def layer_line(values: Sequence[float], ylabel: str) -> Figure:
    """One value at the entry of the residual stream and one after every block, as a line."""
    fig, ax = canvas(6.4, 2.8)
    ax.plot(range(len(values)), values, "o-", color=BLUE)
    ax.set_xticks(range(len(values)), ["in", *range(len(values) - 1)])
    ax.set(ylim=(0, None), xlabel="residual stream: at the entry, and after block …", ylabel=ylabel)
    return fig


# ------------------------------------------------------------------------------------------------ report card


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
        ax.plot(value, place, "o", color=_colour(row), zorder=2)
        for bar in (row.get("at_least"), row.get("at_most")):
            if bar is not None:
                ax.plot(scale * bar, place, "|", color=BLACK, markersize=13, markeredgewidth=1.6, zorder=3)
    ax.set_yticks(range(len(rows)), [plain(f"{row['name']}{'' if holds(row) else '  (missed)'}") for row in rows], fontsize=9)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.3)


def holds(row: Mapping[str, Any]) -> bool:
    """Does a row of the report card keep its bars? A row without a bar does."""
    least, most = row.get("at_least"), row.get("at_most")
    return (least is None or row["value"] >= least) and (most is None or row["value"] <= most)


def _colour(row: Mapping[str, Any]) -> str:
    if row.get("at_least") is None and row.get("at_most") is None:
        return BLUE
    return GREEN if holds(row) else ORANGE


def learning_curves(report: Mapping[str, Any]) -> Figure:
    """Each share of the report card over the tokens read so far, one small panel a row, since many lines in one would cross."""
    points = checkpoints(report)
    names = [row["name"] for row in report["rows"] if row["unit"] == "share" and any(row["name"] in p["values"] for p in points)]
    n_rows = max(1, -(-len(names) // 4))
    fig, axes = canvas(10, 1.7 * n_rows + 0.4, rows=n_rows, ncols=4, sharex=True, sharey=True, squeeze=False)
    for place, ax in enumerate(axes.flat):
        ax.set_visible(place < len(names))
        if place < len(names):
            line = [(p["tokens"] / 1e6, 100 * p["values"][names[place]]) for p in points if names[place] in p["values"]]
            ax.plot(*zip(*line, strict=True), "o-", color=BLUE, markersize=4)
            ax.set_title(plain(names[place] if len(names[place]) < 34 else names[place][:32] + "…"), fontsize=8)
            ax.grid(alpha=0.3)
    axes[0, 0].set_ylim(-4, 104)
    fig.supxlabel("million tokens read", fontsize=9)
    fig.supylabel("%", fontsize=9)
    return fig


def checkpoints(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The earlier checkpoints of a report, in the order of training."""
    return sorted(report["checkpoints"], key=lambda point: point["tokens"])
