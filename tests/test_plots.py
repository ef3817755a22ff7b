"""Figures: each shows the numbers that it was given, where a reader looks for them, and no text is cut off or lies on another."""

import json
import warnings
from io import BytesIO
from itertools import combinations
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from contrast import contrast
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.text import Annotation, Text
from PIL import Image


@pytest.fixture(scope="module")
def plots() -> SimpleNamespace:
    """All figures, of the core and of the lessons."""
    from helpers import plots
    from helpers.cluster import plots as cluster
    from helpers.one_layer import plots as one_layer
    from helpers.one_neuron import plots as one_neuron

    return SimpleNamespace(**vars(plots) | vars(one_neuron) | vars(one_layer) | vars(cluster))


def next_tokens(*top: object) -> object:
    from helpers.prediction import TopTokens

    return TopTokens("x", *top)


def circuit(*given: object) -> Figure:
    from helpers.cluster.graph_plots import edge_graph

    return edge_graph(*given)


LONG = "all 400 neurons of layers 3 to 8 taken away"
ZIGZAG = [0.1, -0.3, 0.2, 0.0, -0.1, 0.25]
THREE = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.2, 0.0]])  # directions in the plane
SQUARE = torch.tensor([[1.0, -0.5], [-0.5, 0.8]])
POINTS = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, -1.0], [-3.0, 0.0], [-5.0, 2.0]])
RISING = [0.0, 0.5, 1.0], [(-0.1, 0.1), (0.3, 0.6), (0.9, 1.4)]  # means and their intervals
NUMBERS = [str(at) for at in range(100)]
EFFECTS = torch.linspace(-12, 12, 60).reshape(12, 5)
EDGES = [("embed", "a0.1.q", 1.0), ("embed", "a3.1.k", 0.5), ("a0.1", "m2", -0.3), ("m2", "a3.1.v", 0.1), ("a3.1", "logits", -2.0)]
REPORT = json.loads((Path(__file__).parents[1] / "data" / "course_lm" / "report.json").read_text(encoding="utf-8"))
SHARES = [row["name"] for row in REPORT["rows"] if row["unit"] == "share" and row["name"] in REPORT["checkpoints"][-1]["values"]]
FIGURES = {
    "ablation_bars": lambda p: p.ablation_bars(
        {"zero": (-1.2, -1.5, -0.9), "mean": (-0.8, -1.0, -0.5), "resample": (0.1, -0.2, 0.3)}, {"zero": ZIGZAG}, "change of the log-odds"
    ),
    "dose_curve": lambda p: p.dose_curve([0, 2, 4], {" this": [0.9, 0.5, 0.1], " $5": [0.0, 0.1, 0.2], "巴黎": [0.0] * 3}, (0.5, 2.5)),
    "kind_bars": lambda p: p.kind_bars({"name": [3, 5], "語言": [1, 2, 3], "of others": ZIGZAG}, "peak activation", {"name": ZIGZAG}),
    "estimate_scatter": lambda p: p.estimate_scatter([*ZIGZAG, 2.0, -3.0], [*ZIGZAG, 2.1, -1.0], list("abcdefgh")),
    "word_bars": lambda p: p.word_bars({" $1": 0.4, " these": 0.1, "巴黎": 0}, {LONG: {" $1": 0.1, " these": 0.3}, "L5": {" $1": 0.2}}),
    "jobs_histogram": lambda p: p.jobs_histogram({"neurons": [1.0, 2.5, 3.0], "features": [1.0, 1.2]}, 1.1, "number of jobs"),
    "overlap_grid": lambda p: p.overlap_grid({f"sparsity 0.{at}": SQUARE for at in range(6)}),
    "overlap_grid, one": lambda p: p.overlap_grid({"sparsity 0.9": SQUARE}),
    "feature_fan": lambda p: p.feature_fan({f"sparsity 0.{at}": THREE for at in range(6)}),
    "score_pairs": lambda p: p.score_pairs([0.1, 0.9, -0.2], [0.0, 0.1, 0.05], "score: a correlation"),
    "clouds": lambda p: p.clouds({f"layer {at}, last token": POINTS for at in range(6)}, {"harmful": 3, LONG: 2}),
    "clouds, one": lambda p: p.clouds({"layer 5": POINTS}, {"harmful": 2, "harmless": 2, "harmful words in harmless requests": 1}),
    "cosine_grid": lambda p: p.cosine_grid(torch.eye(13), "layer"),
    "cosine_grid, many": lambda p: p.cosine_grid(torch.eye(37), "stream before block …, the last is what is unembedded"),
    "coverage": lambda p: p.coverage([1, 20, 300, 5], [0.0, 0.5, 1.0, 0.9], ["element", LONG, "element", "$1"], ["", "$1", "gold", ""]),
    "class_lines": lambda p: p.class_lines({"$1": ZIGZAG, LONG: ZIGZAG * 2}, f"the rate after {LONG}", reference={"as they are": 0.2}),
    "class_lines, many": lambda p: p.class_lines({f"{at} {LONG}": [0.1 * at] * 43 for at in range(9)}, "share", "after block …"),
    "rate_bars": lambda p: p.rate_bars({"harmful": {"as they are": [True], LONG: [False, True]}, "harmless": {LONG: [True]}}, "refused"),
    "rate_bars, many": lambda p: p.rate_bars({f"{at} {LONG}": {LONG: [True]} for at in range(5)}, f"refused with {LONG}"),
    "steering_lines": lambda p: p.steering_lines([-1, 0, 1], {f"{at} {LONG}": RISING for at in range(4)}, f"log-odds with {LONG}"),
    "task_grid": lambda p: p.task_grid(torch.rand(14, 12), [f"english_french {at}" for at in range(14)], NUMBERS[:12], "layer"),
    "task_grid, many": lambda p: p.task_grid(torch.rand(2, 80), ["antonym", LONG], NUMBERS[:80], "vector put in after block …"),
    "task_grid, words": lambda p: p.task_grid(torch.rand(1, 4), ["copy"], ["none", "five shots", LONG, "task vector"], "what was done"),
    "next_token_bars": lambda p: p.next_token_bars(next_tokens((" little", "花", "\n", " $"), (0.5, 0.2, 0.1, 0.0))),
    "rate_bars, one group": lambda p: p.rate_bars(
        {"harmless": {"as it is": [False] * 9, "subtracted at one layer": [True, False], "random added": [True]}}, "refused"
    ),
    "patch_maps": lambda p: p.patch_maps({f"{at}: other result": EFFECTS for at in range(4)}, ["IO", "S1", "S1+1", "second", "END"], LONG),
    "patch_maps, many": lambda p: p.patch_maps({"$1": torch.rand(12, 14), "b": torch.rand(12, 14)}, ["·capital"] * 13 + ["花"], "share"),
    "relation_bars": lambda p: p.relation_bars(
        {f"landmark_country {at}": {"LRE": 0.1 * at, "translation": 0.0, "regression": 1.0, "$": 0.5} for at in range(9)}, LONG, (0.4, 0.6)
    ),
    "size_curves": lambda p: p.size_curves([1, 10, 400], {"resample": RISING, "random edges": RISING}, "edges kept", LONG, (0, 1)),
    "report_card": lambda p: p.report_card(REPORT),
    "learning_curves": lambda p: p.learning_curves(REPORT, SHARES),
    "circuit": lambda p: circuit(EDGES, 9, ("holds the metric up", "holds it down")),
}


def texts(fig: Figure) -> list[Text]:
    """All texts of a figure that can be seen; matplotlib keeps some beyond the ends of an axis, which it never draws."""
    unseen = {text for ax in fig.axes for text in _beyond(ax)}
    unseen |= {text for ax in fig.axes if not ax.get_visible() for text in ax.findobj(Text)}
    return [text for text in fig.findobj(Text) if text.get_visible() and text.get_text() and text not in unseen]


def _beyond(ax: Axes) -> list[Text]:
    """The labels of ticks outside the range of an axis."""
    ranges = {ax.xaxis: sorted(ax.get_xlim()), ax.yaxis: sorted(ax.get_ylim())}
    ticks = [(tick, low, high) for axis, (low, high) in ranges.items() for tick in axis.get_major_ticks()]
    return [label for tick, low, high in ticks if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)]


def legend(fig: Figure) -> list[str]:
    """The words of the figure's legend."""
    return [text.get_text() for text in fig.legends[0].get_texts()]


def ticks(ax: Axes, axis: str) -> list[str]:
    """What stands along the x or the y axis."""
    return [label.get_text() for label in getattr(ax, f"get_{axis}ticklabels")()]


def named(ax: Axes, label: str) -> object:
    """The line, area or bars of that label."""
    return next(one for one in (*ax.lines, *ax.patches, *ax.containers) if one.get_label() == label)


def data(*lines: Line2D) -> list[tuple[list, list]]:
    """The x and the y of lines and dots."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]


def at_labels(ax: Axes, *labels: str) -> list[tuple[list, list]]:
    """The x and the y of what has these labels."""
    return data(*(named(ax, label) for label in labels))


class Drawn(NamedTuple):
    """A figure with everything at its place, and the picture that a notebook shows of it."""

    name: str
    fig: Figure
    picture: np.ndarray


@pytest.fixture(scope="module", params=FIGURES)
def drawn(request: pytest.FixtureRequest, plots) -> Drawn:
    """Each figure, drawn once for all tests."""
    before = plt.get_fignums()
    fig = FIGURES[request.param](plots)
    assert plt.get_fignums() == before, "a notebook would show it twice"
    file = BytesIO()
    fig.savefig(file, format="png", bbox_inches="tight")
    fig.draw_without_rendering()
    return Drawn(request.param, fig, np.asarray(Image.open(file)))


def test_no_text_is_cut_off_and_no_two_lie_on_each_other(drawn: Drawn):
    fig = drawn.fig
    boxes = {text: text.get_window_extent() for text in texts(fig)}
    for text, box in boxes.items():
        inside = box.x0 >= -1 and box.x1 <= fig.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= fig.bbox.y1 + 1
        assert inside, f"{text.get_text()!r} is cut off"
    for (one, box), (other, another) in combinations(boxes.items(), 2):
        assert not box.padded(-1).overlaps(another.padded(-1)), f"{one.get_text()!r} lies on {other.get_text()!r}"


def test_every_axis_says_what_it_shows(drawn: Drawn):
    if drawn.name == "circuit":
        return  # which has no axes
    fig = drawn.fig
    words = [label.get_text() for ax in fig.axes for label in ax.get_xticklabels() if any(map(str.isalpha, label.get_text()))]
    across = [fig.get_supxlabel(), *(ax.get_xlabel() for ax in fig.axes), *words]
    along = [fig.get_supylabel(), *(ax.get_ylabel() or "".join(label.get_text() for label in ax.get_yticklabels()) for ax in fig.axes)]
    assert any(across) and any(along)


def test_a_figure_lies_on_a_light_card_with_round_corners_so_that_it_can_be_read_on_any_page(drawn: Drawn, plots):
    picture = drawn.picture
    assert (picture[[0, 0, -1, -1], [0, -1, 0, -1], 3] == 0).all()
    rim = [*picture[[3, -4], 20:-20].reshape(-1, 4), *picture[20:-20, [3, -4]].reshape(-1, 4)]
    colours = {tuple(pixel) for pixel in np.unique(rim, axis=0).tolist()}
    assert colours == {(0xF7, 0xF7, 0xF7, 255)} and plots.PAPER == "#F7F7F7", "the card ends, or something is drawn on its rim"


def test_all_text_can_be_read_on_what_lies_behind_it(drawn: Drawn, plots):
    from helpers.cluster.graph_plots import FILLS

    behind = list(FILLS.values()) if drawn.name == "circuit" else [plots.PAPER]
    in_squares = {text for ax in drawn.fig.axes if ax.images for text in ax.texts}
    colours = {text.get_color() for text in texts(drawn.fig) if text not in in_squares}
    assert min(contrast(colour, other) for colour in colours for other in behind) >= 4.5


def test_numbers_can_be_read_in_squares_of_any_colour(plots):
    values = torch.linspace(-1, 1, 400).reshape(50, 8)
    ax = plots.patch_maps({"a": values}, list("abcdefgh"), "effect").axes[0]
    places = {text: text.get_position() for text in ax.texts}
    squares = {text: ax.images[0].to_rgba(values[y, x].item())[:3] for text, (x, y) in places.items()}
    assert len(squares) > 300 and min(contrast(text.get_color(), square) for text, square in squares.items()) >= 4.5


def test_lines_and_dots_stand_out_from_the_card(plots):
    assert min(contrast(colour, plots.PAPER) for colour in (plots.BLUE, plots.ORANGE, plots.GREEN, plots.GREY, plots.BLACK)) >= 3


def test_ablation_bars_show_value_interval_and_controls_of_each_kind(plots):
    fig = plots.ablation_bars({"zero": (-1.0, -1.5, -0.2), "mean": (0.5, 0.6, 0.9)}, {"mean": [0.1, 0.1, -0.1]}, "change")
    (ax,) = fig.axes
    assert [bar.get_height() for bar in ax.patches] == [-1.0, 0.5] and ticks(ax, "x") == ["zero", "mean"] and ax.get_ylabel() == "change"
    assert [ys for _, ys in data(*ax.lines[:4])] == [[-1.5, -0.2], [], [0.6, 0.9], [0.1, 0.1, -0.1]]
    dots = ax.lines[3].get_xdata()
    assert len(set(dots)) == 3 and min(dots) > ax.patches[1].get_x() + ax.patches[1].get_width()  # none hides another, or the bar
    assert legend(fig) == ["the neuron", "its 95 % interval", "control neurons"]


def test_dose_curves_are_in_percent_with_the_usual_range_behind_them(plots):
    fig = plots.dose_curve([0, 1, 2], {" this": [0.5, 0.25, 0.0], " these": [0.0, 0.1, 0.4]}, (0.5, 1.5))
    (ax,) = fig.axes
    assert at_labels(ax, "this", "these") == [([0, 1, 2], [50, 25, 0]), ([0, 1, 2], [0, 10, 40])]
    area = named(ax, "what it reaches by itself")
    assert (area.get_x(), area.get_width()) == (0.5, 1.0) and legend(fig) == ["this", "these", "what it reaches by itself"]
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 50


def test_kinds_keep_their_order_with_the_first_at_the_top(plots):
    (ax,) = plots.kind_bars({"name": [3.0, 5.0], "$ and 語言": [1.0, 1.0, 4.0], "none": []}, "peak activation").axes
    assert ticks(ax, "y") == ["name", plots.plain("$ and 語言"), "none"] and [bar.get_width() for bar in ax.patches] == [4.0, 2.0, 0]
    assert [xs for xs, _ in data(*ax.lines[:3])] == [[3.0, 5.0], [1.0, 1.0, 4.0], []] and len(set(ax.lines[1].get_ydata())) == 3
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and all(abs(y - 1) < 0.4 for y in ax.lines[1].get_ydata())
    grey = plots.kind_bars({"name": [3.0], "Chinese": [1.0]}, "peak", {"Chinese": [0.1, 0.2]}).axes[0].lines
    assert [list(line.get_xdata()) for line in grey if line.get_color() == plots.GREY] == [[], [0.1, 0.2]]


def test_a_scatter_names_the_outermost_points_and_the_correlation(plots):
    estimates, measured = [0.0, 0.1, -0.1, 2.0, -1.0], [0.0, -0.1, 0.1, 3.0, -2.0]
    (ax,) = plots.estimate_scatter(estimates, measured, ["a", "b", "c", "d$", "e"]).axes
    x, y = np.array(estimates), np.array(measured)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (((x - x.mean()) ** 2).sum() * ((y - y.mean()) ** 2).sum()) ** 0.5
    assert f"{slope:.2f}" in ax.get_title()
    assert data(*ax.lines) == [([-2.0, 3.0], [-2.0, 3.0]), (estimates, measured)]
    names = {text.get_text(): text.xy for text in ax.texts if isinstance(text, Annotation)}
    assert names[r"d\$"] == (2.0, 3.0) and names["e"] == (-1.0, -2.0)
    for constant in ([1.0, 1.0], [0.0, 0.0]):
        assert "correlation undefined" in plots.estimate_scatter([1.0, 2.0], constant, ["a", "b"]).axes[0].get_title()


def test_points_that_lie_together_get_one_name(plots):
    assert plots.outermost([1.0, 1.01, 0.0, -0.9], [1.0, 1.0, 0.0, 0.9], n=3) == [1, 3, 2]
    assert plots.outermost([1.0, 1.0, 1.0], [1.0, 0.0, -1.0], n=2) == [0, 2]


def test_concepts_stand_by_their_count_and_their_f1_in_the_colour_of_their_group(plots):
    fig = plots.coverage([3, 40, 500], [0.1, 0.7, 0.9], ["element", "country", "element"], ["terbium", "", ""])
    (ax,) = fig.axes
    assert [(text.get_text(), text.xy) for text in ax.texts] == [("terbium", (3, 0.1))]
    assert at_labels(ax, "element", "country") == [([3, 500], [0.1, 0.9]), ([40], [0.7])] and legend(fig) == ["element", "country"]
    assert ax.get_xscale() == "log" and list(ax.lines[2].get_ydata()) == [0.8, 0.8] and ax.lines[0].get_color() != ax.lines[1].get_color()


def test_words_have_a_bar_before_and_one_for_each_removal(plots):
    fig = plots.word_bars({" this": 0.5, " that": 0.25}, {"L5 N1": {" this": 0.1, " that": 0.0}, "both": {" that": 1.0}})
    (ax,) = fig.axes
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers}
    assert ticks(ax, "y") == ["this", "that"] and widths["before"] == [50, 25] and widths["L5 N1"] == [10, 0]
    assert isnan(widths["both"][0]) and widths["both"][1] == 100  # what was not measured is no bar of length 0
    assert legend(fig) == ["before", "L5 N1", "both"]


def test_histograms_of_jobs_are_shares_of_their_own(plots):
    fig = plots.jobs_histogram({"neurons": [1.0, 2.5, 2.5, 3.0], "features": [1.0] * 7}, 1.2, "number of jobs")
    (ax,) = fig.axes
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
    assert [sum(each) for each in heights] == pytest.approx([100, 100]) and max(heights[0]) == 50 and max(heights[1]) == pytest.approx(100)
    assert list(named(ax, "planted, with one job").get_xdata()) == [1.2, 1.2]
    assert set(legend(fig)) == {"neurons", "features", "planted, with one job"}


WHOLE = torch.tensor([[1.0, -0.4, 0.1], [-0.4, 1.0, 0.3], [0.1, 0.3, 2.0]], requires_grad=True)
GRIDS = {  # drawn from these values, on this scale
    "overlaps": (lambda p: p.overlap_grid({"a": WHOLE, "b": torch.zeros(2, 2)}), (-1, 1)),
    "cosines": (lambda p: p.cosine_grid(WHOLE, "stream before block …"), (-1, 1)),
    "tasks": (lambda p: p.task_grid(WHOLE, ["antonym", "$ copy", "c"], ["0", "1", "2"], "stream before block …"), (0, 1)),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_squares_show_their_values_on_one_scale(plots, kind: str):
    draw, scale = GRIDS[kind]
    first, *others = (ax for ax in draw(plots).axes if ax.images)
    assert np.array_equal(first.images[0].get_array(), WHOLE.detach()) and {ax.images[0].get_clim() for ax in (first, *others)} == {scale}
    if kind == "overlaps":
        below, zero, above = (first.images[0].cmap(at) for at in (0.0, 0.5, 1.0))
        assert min(zero[:3]) > 0.99 and below[2] > below[0] and above[0] > above[2], "blue, white and orange"
        assert [ax.get_title() for ax in (first, *others)] == ["a", "b"]
    else:
        assert first.get_xlabel() == "stream before block …" and ticks(first, "x") == ["0", "1", "2"]
        assert ticks(first, "y") == (["antonym", r"\$ copy", "c"] if kind == "tasks" else ["0", "1", "2"])


@pytest.mark.parametrize(
    ("n", "width", "columns", "rows"),
    [(1, 6, 1, 1), (5, 2, 5, 1), (7, 2, 4, 2), (4, 3.1, 2, 2), (3, 4.3, 2, 2), (2, 5, 2, 1), (2, 20, 1, 2)],
)
def test_panels_that_would_be_too_wide_for_a_page_take_a_second_row(plots, n: int, width: float, columns: int, rows: int):
    fig, axes = plots.panels(n, width, 3, spare=1)
    assert len(axes) == n and sum(ax.get_visible() for ax in fig.axes) == n
    assert tuple(fig.get_size_inches()) == pytest.approx((columns * width + 1, rows * 3))


def test_a_fan_has_an_arrow_for_each_feature_and_a_dot_for_what_is_ignored(plots):
    directions = torch.tensor([[1.0, 0.0, 0.02], [0.0, -2.0, 0.01]])
    ax, other = plots.feature_fan({"a": directions, "b": torch.eye(2)}).axes
    assert [text.xy for text in ax.texts if isinstance(text, Annotation)] == [(1.0, 0.0), (0.0, -2.0)]
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["0", "1"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in ax.lines] == [pytest.approx((0.02, 0.01))]
    assert any(isinstance(patch, Circle) and patch.get_radius() == 1 for patch in ax.patches)
    assert ax.get_xlim() == ax.get_ylim() == other.get_xlim() and ax.get_xlim()[1] > 2  # alike, and nothing cut off


def test_scores_are_sorted_and_stay_with_their_controls(plots):
    fig = plots.score_pairs([0.1, 0.9, -0.4], [0.0, 0.3, 0.15], "score")
    (ax,) = fig.axes
    assert legend(fig) == ["its own explanation, mean 0.20", "random explanations, mean 0.15"]
    assert (
        at_labels(ax, *legend(fig)) == [([0.9, 0.1, -0.4], [0, 1, 2]), ([0.3, 0.0, 0.15], [0, 1, 2])]
        and ax.get_ylim()[0] > ax.get_ylim()[1]
    )
    assert [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2] == pytest.approx([0.2, 0.15])


@pytest.mark.parametrize(("word", "label"), [(" this", "this"), (" New York", "New York"), ("\n", "⏎"), (" ", "·"), (" $5", r"\$5")])
def test_words_are_drawn_without_the_space_in_front(plots, word: str, label: str):
    assert plots.word_label(word) == label


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [
        ([], []),
        (["Heiti TC", "Arial", "PingFang TC"], ["PingFang TC"]),
        (["SimHei", "DejaVu Sans"], ["SimHei"]),
        *[([name], [name]) for name in ("Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC")],
    ],
)
def test_chinese_is_drawn_with_a_font_that_is_there(plots, monkeypatch: pytest.MonkeyPatch, installed: list[str], chosen: list[str]):
    monkeypatch.setattr("helpers.plots.fontManager", SimpleNamespace(ttflist=[SimpleNamespace(name=name) for name in installed]))
    assert plots.fonts() == ["sans-serif", *chosen]


def test_every_text_of_a_figure_looks_for_chinese_letters(plots):
    fig = plots.word_bars({"巴黎": 0.5}, {"après 巴黎": {"巴黎": 0.2}})
    assert {tuple(text.get_fontfamily()) for text in texts(fig)} == {tuple(plots.fonts())}


def test_a_letter_that_no_font_here_has_is_written_as_its_code_and_nothing_warns(
    plots, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.setitem(plt.rcParams, "font.family", ["DejaVu Sans"])
    plots._has.cache_clear()
    assert plots.plain("·花 $1 für\n→ 🙂") == "·\\u82b1 \\$1 für\n→ \\U0001f642"
    with warnings.catch_warnings(action="error"):
        fig = plots.next_token_bars(next_tokens((" 花", " tree"), (0.5, 0.1)))
        fig.savefig(BytesIO())
    assert ticks(fig.axes[0], "y") == ["·\\u82b1", "·tree"] and not capfd.readouterr().err
    plots._has.cache_clear()


# ------------------------------------------------------------------------------------------------------------- over layers


def test_clouds_show_each_groups_points_and_its_mean(plots):
    fig = plots.clouds({"layer 1": POINTS, "layer 2": 2 * POINTS}, {"harmful": 3, "$less": 2})
    assert [ax.get_title() for ax in fig.axes] == ["layer 1", "layer 2"] and legend(fig) == ["harmful", r"\$less", "mean"]
    for ax, points in zip(fig.axes, (POINTS, 2 * POINTS), strict=True):
        drawn = {scatter.get_label(): scatter.get_offsets().tolist() for scatter in ax.collections if scatter.get_label()[0] != "_"}
        assert drawn == {"harmful": points[:3].tolist(), r"\$less": points[3:].tolist()}
        means = [place for scatter in ax.collections if scatter.get_label()[0] == "_" for place in scatter.get_offsets().tolist()]
        assert means == [points[:3].mean(0).tolist(), points[3:].mean(0).tolist()]
    with pytest.raises(ValueError, match="The groups have 4 points together, and 'layer 1' has 5: count them again"):
        plots.clouds({"layer 1": POINTS}, {"harmful": 3, "harmless": 1})


def test_a_legend_has_as_many_columns_as_fit(plots):
    short, long = ["one", "two", "six"], ["x" * 33, "y" * 33, "z"]
    assert plots.side_by_side(short, 6.4) == 3 and plots.side_by_side(long, 6.4) == 2 and plots.side_by_side(long, 13) == 3
    assert plots.side_by_side([], 1) == plots.side_by_side(["one"], 6.4) == plots.side_by_side(["x" * 500, "two"], 6.4) == 1
    assert [plots.side_by_side([str(at) for at in range(n)], 6.4) for n in (2, 3, 4, 5, 6, 7)] == [2, 3, 2, 3, 3, 3]


def test_each_name_has_a_line_over_the_layers_and_each_reference_a_level(plots):
    fig = plots.class_lines({"harmful": [0.1, 0.5, 0.9], "$": [0.2, 0.1]}, "rate", "after block", {"as it is": 0.7, "chance": 0.25})
    (ax,) = fig.axes
    assert at_labels(ax, "harmful", r"\$") == [([0, 1, 2], [0.1, 0.5, 0.9]), ([0, 1], [0.2, 0.1])]
    levels = [named(ax, label) for label in ("as it is", "chance")]
    assert [ys for _, ys in data(*levels)] == [[0.7, 0.7], [0.25, 0.25]]
    assert {level.get_color() for level in levels} == {plots.GREY} and len({level.get_linestyle() for level in levels}) == 2
    assert legend(fig) == ["harmful", r"\$", "as it is", "chance"]
    assert (ax.get_xlabel(), ax.get_ylabel(), list(ax.get_xticks())) == ("after block", "rate", [0, 1, 2])


def test_many_lines_are_told_apart(plots):
    lines = {f"class {at}": [0.1, 0.2] for at in range(15)}
    for fig in (plots.class_lines(lines, "rate"), plots.dose_curve([0, 1], lines, (0.0, 1.0))):
        assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in fig.axes[0].lines}) == 15


def test_rates_are_shares_with_their_intervals_and_kinds_keep_their_colours(plots):
    from helpers.stats import wilson

    hits = [True, True, True, False]
    fig = plots.rate_bars({"harmful": {"plain": hits, "$out": [False] * 10}, "harmless": {"$out": [True] * 3}}, "refused")
    (ax,) = fig.axes
    assert [bar.get_height() for bar in ax.patches] == [75, 0, 100]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in ax.patches]
    assert [round(middle) for middle in middles] == [0, 0, 1] and middles[0] < 0 < middles[1] and middles[2] > 1
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor() == ax.patches[2].get_facecolor()
    intervals = [100 * end for good, n in ((3, 4), (0, 10), (3, 3)) for end in wilson(good, n)]
    assert [end for line in ax.lines for end in line.get_ydata()] == pytest.approx(intervals)
    assert [x for line in ax.lines for x in line.get_xdata()] == pytest.approx([middle for middle in middles for _ in range(2)])
    assert ticks(ax, "x") == ["harmful", "harmless"] and ax.get_ylabel() == "refused, in %" and legend(fig) == ["plain", r"\$out"]


def test_a_single_group_has_the_names_under_its_bars_and_a_share_of_0_is_written(plots):
    fig = plots.rate_bars({"harmless": {"as it is": [False] * 10, "direction $": [True] * 9 + [False]}}, "refused")
    (ax,) = fig.axes
    assert ticks(ax, "x") == ["as it is", r"direction \$"] and not fig.legends and ax.get_xlabel() == "harmless"
    assert list(ax.get_xticks()) == pytest.approx([bar.get_x() + bar.get_width() / 2 for bar in ax.patches])
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert list(heights) == ["0 %", "90 %"]
    assert all(y > line.get_ydata()[1] for y, line in zip(heights.values(), ax.lines, strict=True))


def test_steering_shows_means_within_their_intervals_and_the_control_in_grey(plots):
    flat = [0.1, 0.1, 0.2], [(0.0, 0.2), (0.0, 0.2), (0.1, 0.3)]
    fig = plots.steering_lines([-2, 0, 2], {"direction": RISING, "of $": RISING, "random": flat}, "log-odds")
    (ax,) = fig.axes
    for area, label, (means, intervals) in zip(ax.collections, ("direction", r"of \$", "random"), (RISING, RISING, flat), strict=True):
        assert at_labels(ax, label) == [([-2, 0, 2], means)]
        corners = {(x, y) for x, y in area.get_paths()[0].vertices.tolist()}
        assert corners == {(x, end) for x, ends in zip((-2, 0, 2), intervals, strict=True) for end in ends}
    colours = [named(ax, label).get_color() for label in legend(fig)]
    assert legend(fig) == ["direction", r"of \$", "random"] and len(set(colours)) == 3 and colours[2] == plots.GREY
    alone = plots.steering_lines([0, 1, 2], {"direction": RISING}, "log-odds").axes[0]
    assert named(alone, "direction").get_color() == plots.BLUE  # which is no control


def test_layers_that_are_not_all_written_stand_at_their_places(plots):
    ax = plots.task_grid(torch.rand(2, 80), ["a", "b"], NUMBERS[:80], "layer").axes[0]
    labels = {int(name): place for name, place in zip(ticks(ax, "x"), ax.get_xticks(), strict=True)}
    assert 10 < len(labels) < 20 and all(number == place for number, place in labels.items())


# ------------------------------------------------------------------------------------------------------- the report card

SHARE = {"n": 10, "at_least": 0.9, "at_most": None, "unit": "share", "groups": {}}
SMALL_REPORT = {
    "rows": [
        SHARE | {"name": "good", "value": 0.98, "low": 0.97, "high": 0.99},
        SHARE | {"name": "costs $1 or $2", "value": 0.5, "low": 0.4, "high": 0.6},
        SHARE | {"name": "free", "value": 3.0, "low": 2.0, "high": 4.0, "at_least": None, "unit": "logits"},
    ],
    "checkpoints": [{"tokens": 2_000_000, "values": {"good": 0.9}}, {"tokens": 1_000_000, "values": {"good": 0.2, "free": 1.0}}],
}


def test_the_report_card_has_a_panel_for_each_unit_and_names_what_is_missed(plots):
    shares, others = plots.report_card(SMALL_REPORT).axes
    assert ticks(shares, "y") == ["good", r"costs \$1 or \$2  (missed)"] and ticks(others, "y") == ["free"]


def test_learning_curves_are_drawn_in_the_order_of_training(plots):
    (ax,) = (ax for ax in plots.learning_curves(SMALL_REPORT, ["good"]).axes if ax.get_visible())
    assert data(*ax.lines) == [([1, 2], [pytest.approx(20), pytest.approx(90)])]


def test_learning_curves_have_whole_names_and_numbers_under_the_last_panel_of_each_column(plots):
    fig = plots.learning_curves(REPORT, SHARES)
    fig.draw_without_rendering()
    shown = [ax for ax in fig.axes if ax.get_visible()]
    assert {" ".join(ax.get_title().split()) for ax in shown} == set(SHARES)
    lowest = {round(ax.get_position().x0, 2): ax for ax in shown}.values()  # the last of a column stays
    numbered = [ax for ax in shown if any(label.get_visible() and label.get_text() for label in ax.get_xticklabels())]
    assert len(lowest) == 4 and set(numbered) == set(lowest)
