"""Circuits as drawings: senders as boxes from the embedding at the bottom to the logits at the top, and the edges between them.

It takes names and numbers, and runs no model. Heads are named like ``a3.2``, MLPs like ``m3``, and a head's inputs ``a3.2.q``.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from helpers.cluster.edges import Circuit
from helpers.plots import BLACK, BLUE, GREEN, GREY, ORANGE, canvas, legend, plain

Edge = tuple[str, str, float]
PORTS = {"q": -0.3, "k": 0.0, "v": 0.3}  # where an input of a head enters its box, from its middle
HALF_WIDTH, HALF_HEIGHT = 0.42, 0.24
SWEEPS = 6  # over all rows, until the boxes stand
FILLS = {"a": "#DCEBF7", "m": "#DFF1EA", "e": "#EEEEEE", "l": "#EEEEEE"}
RIMS = {"a": BLUE, "m": GREEN, "e": GREY, "l": GREY}


def circuit_graph(circuit: Circuit, scores: Float[Tensor, "edge"] | None = None, max_edges: int = 40) -> Figure:
    """A circuit as a drawing: its ``max_edges`` edges with the largest scores, those whose loss costs the metric blue, the others orange.

    ``scores`` say for every edge of the graph by how much the metric changes when it is cut, as ``attribute_edges`` finds it;
    without them all edges look alike. Raises ValueError for an empty circuit, and where an edge has no score.
    """
    if scores is not None and len(scores) != len(circuit.kept):
        raise ValueError(f"Each edge of the graph needs a score: there are {len(circuit.kept):,} edges and {len(scores):,} scores.")
    weights = [1.0] * len(circuit) if scores is None else (-scores[circuit.kept]).tolist()
    edges = [(*name.split(" -> "), weight) for name, weight in zip(circuit.names, weights, strict=True)]
    return edge_graph(edges, max_edges, ("kept",) * 2 if scores is None else ("holds the metric up", "holds it down"))


def edge_graph(edges: Sequence[Edge], max_edges: int, of: tuple[str, str]) -> Figure:
    """The ``max_edges`` edges of the largest weights as a drawing: ``(sender, receiver, weight)`` such as ``("a3.2", "a7.1.q", 0.5)``.

    Only what an edge touches is drawn. A line is the wider the larger its weight, blue above zero and orange below; ``of`` names the two.
    It enters a head at its query, key or value (q, k, v). Raises ValueError where there is no edge.
    """
    if not edges or max_edges < 1:
        raise ValueError("There is no edge to draw: the circuit is empty, or max_edges is below 1.")
    shown = sorted(edges, key=lambda edge: -abs(edge[2]))[:max_edges]
    at = places(shown)
    columns, rows = max(x for x, _ in at.values()) + 1, max(y for _, y in at.values()) + 1
    fig, ax = canvas(max(5.0, 1.15 * columns + 0.6), rows + 0.7)
    for sender, receiver, weight in reversed(shown):  # the widest on top
        _line(ax, at, sender, receiver, weight / (abs(shown[0][2]) or 1.0))
    for name, (x, y) in at.items():
        _box(ax, name, x, y, {part for _, receiver, _ in shown if (part := _part(receiver, name))})
    ax.set(xlim=(-1.0, columns), ylim=(-0.5, rows - 0.5))
    ax.set_axis_off()
    used = {of[weight < 0]: BLUE if weight >= 0 else ORANGE for _, _, weight in shown}
    lines = [Line2D([], [], color=colour, linewidth=2) for colour in used.values()]
    title = f"{len(shown)} of {len(edges)} edges" if len(shown) < len(edges) else f"{len(edges)} edges"
    legend(fig, lines, [plain(word) for word in used], title=title, ncols=2, alignment="left")
    return fig


def node_of(receiver: str) -> str:
    """The box that a receiver belongs to: ``a7.1`` for ``a7.1.q``."""
    return receiver.rsplit(".", 1)[0] if receiver.startswith("a") and receiver.count(".") == 2 else receiver


def _part(receiver: str, name: str) -> str:
    return receiver[-1] if receiver != name and node_of(receiver) == name else ""


def _level(name: str) -> tuple[float, int]:
    """The height of a box among all: the embedding, then for each layer its heads and its MLP, then the logits."""
    ends = {"embed": (-1.0, 0), "logits": (float("inf"), 0)}
    return ends[name] if name in ends else (float(name[1:].split(".")[0]), int(name.startswith("m")))


def places(edges: Sequence[Edge]) -> dict[str, tuple[float, float]]:
    """Where each box stands: its row by its layer, its column so that it is near what it is connected with (barycentres, Sugiyama 1981).

    A row that does not reach over the whole width is put where its neighbours are, and no two boxes of a row touch.
    """
    pairs = [(sender, node_of(receiver)) for sender, receiver, _ in edges]
    names = sorted({name for pair in pairs for name in pair}, key=lambda name: (_level(name), name))
    levels = sorted({_level(name) for name in names})
    rows = [[name for name in names if _level(name) == level] for level in levels]
    width = max(4, *map(len, rows))
    x = {name: (width - 1) / 2 - (len(row) - 1) / 2 + number for row in rows for number, name in enumerate(row)}
    for sweep in range(SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            near = {name: [x[b if a == name else a] for a, b in pairs if name in (a, b)] for name in row}
            wished = {name: sum(some) / len(some) for name, some in near.items()}
            x |= _apart(wished, width)
    alone = [row[0] for row in rows if len(row) == 1 and row[0] not in ("embed", "logits")]
    for number, name in enumerate(alone):  # to the left and right in turn, so that a line past one of them is seen
        x[name] = min(width - 1.0, max(0.0, x[name] + (0.7 if number % 2 else -0.7)))
    left = min(x.values())
    return {name: (x[name] - left, float(levels.index(_level(name)))) for name in names}


def _apart(wished: Mapping[str, float], width: int) -> dict[str, float]:
    """Boxes in the order of the places they wish for, at least 1 apart and inside the width."""
    order = sorted(wished, key=lambda name: (wished[name], name))
    found: dict[str, float] = {}
    for number, name in enumerate(order):
        least = found[order[number - 1]] + 1 if number else 0.0
        most = width - len(order) + number
        found[name] = min(most, max(least, wished[name]))
    return found


def _line(ax: Axes, at: Mapping[str, tuple[float, float]], sender: str, receiver: str, weight: float) -> None:
    """One edge, from the top of a box to the bottom of another, bent a little where it passes by other rows."""
    (x0, y0), (x1, y1) = at[sender], at[node_of(receiver)]
    start, end = (x0, y0 + HALF_HEIGHT), (x1 + PORTS.get(_part(receiver, node_of(receiver)), 0.0), y1 - HALF_HEIGHT)
    side = 1 if (x0 + x1) / 2 >= sum(x for x, _ in at.values()) / len(at) else -1
    bend = 0.0 if y1 - y0 < 1.5 else side * min(0.22, 1.3 / (y1 - y0))  # so that no line leaves the drawing
    width = abs(weight) ** 0.5  # of a few strong edges and many weak ones, both are to be seen
    arrow = dict(arrowstyle="-|>", mutation_scale=7 + 4 * width, connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0)
    look = dict(color=BLUE if weight >= 0 else ORANGE, alpha=0.45 + 0.4 * width, linewidth=0.5 + 3.0 * width, zorder=1)
    ax.add_patch(FancyArrowPatch(start, end, **arrow, **look))


def _box(ax: Axes, name: str, x: float, y: float, parts: set[str]) -> None:
    """One sender or the logits: its name, and the letters of the inputs that are used."""
    frame = dict(facecolor=FILLS[name[0]], edgecolor=RIMS[name[0]], linewidth=1.2, zorder=2)
    ax.fill([x - HALF_WIDTH, x + HALF_WIDTH, x + HALF_WIDTH, x - HALF_WIDTH], [y - HALF_HEIGHT] * 2 + [y + HALF_HEIGHT] * 2, **frame)
    look = dict(ha="center", color=BLACK, zorder=3)
    ax.text(x, y + (0.06 if parts else 0.0), plain(name), va="center", fontsize=9, **look)
    for part in sorted(parts):
        ax.text(x + PORTS[part], y - HALF_HEIGHT + 0.015, part, va="bottom", fontsize=7, **look)
