"""HTML: deep colours for large values, nothing that a page could take for markup, the same content in words, and text where HTML is not."""

import re
import subprocess
import sys
from os import environ
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from helpers.html import AMBER, COLD, DEEPEST, GREEN, GREY, WARM, activation_html, boxed, prose, side_by_side, strongest
from helpers.widgets import html_to_text

ROOT = Path(__file__).parents[1]
SPAN = re.compile(r'<span title="([^"]*)" style="([^"]*)">(.*?)</span>', re.DOTALL)


def depths(html: str) -> list[tuple[str, float]]:
    """For each token its colour and how deep it is; nothing and 0 where it has none."""
    found = [re.search(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", style) for _, style, _ in SPAN.findall(html)]
    return [(match[1], float(match[2])) if match else ("", 0.0) for match in found]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "scale", "expected", "words"),
    [
        ([4.0, -2.0, 0.0, 1.0], None, [(WARM, 1), (COLD, 0.5), ("", 0), (WARM, 0.25)], "most on p0 (4.0), p1 (-2.0), p3 (1.0)"),
        ([2.0, 50.0], 8.0, [(WARM, 0.25), (WARM, 1)], "most on p1 (50.0), p0 (2.0)"),  # a scale that texts share
        ([NAN, INF, 2.0], None, [("", 0), ("", 0), (WARM, 1)], "most on p2 (2.0)"),
        ([0.0, 0.0], None, [("", 0), ("", 0)], "silent on every token"),
        ([], None, [], "silent on every token"),
    ],
)
def test_colours_are_warm_above_zero_cold_below_and_as_deep_as_the_value_is_large(
    values: list[float], scale: float | None, expected: list[tuple[str, float]], words: str
):
    html = activation_html([f"p{at}" for at in range(len(values))], values, scale)
    assert depths(html) == [(colour, pytest.approx(share * DEEPEST)) for colour, share in expected]
    assert html_to_text(html).splitlines()[-1] == words


def test_every_token_has_its_value_in_words_under_the_mouse():
    html = activation_html([" the", "\n", "x"], [1.234, 0.0, -3.0])
    assert [title for title, _, _ in SPAN.findall(html)] == ["·the 1.23", "⏎ 0.00", "x -3.00"]


def test_line_breaks_are_shown_and_made_and_spaces_kept():
    html = activation_html(["a", "\n", "\t", "\r", "  b"], [0.0] * 5)
    assert [shown for _, _, shown in SPAN.findall(html)] == ["a", "⏎\n", "⇥", "⏎", "  b"] and "white-space:pre-wrap" in html
    assert strongest(["a", " b", "c", "d"], [1.0, -5.0, 3.0, 0.0], 1) == "most on ·b (-5.0)"


def test_each_token_needs_a_value():
    with pytest.raises(ValueError, match=r"There are 2 tokens and 1 values: each token needs one value\.$"):
        activation_html(["a", "b"], [1.0])


@given(st.lists(st.tuples(st.text(max_size=8), st.floats(-1e9, 1e9)), max_size=12))
def test_no_text_can_break_out_of_its_token(tokens: list[tuple[str, float]]):
    html = activation_html([piece for piece, _ in tokens], [value for _, value in tokens])
    found = SPAN.findall(html)
    assert len(found) == len(tokens)
    assert all("<" not in title + style + shown for title, style, shown in found)
    assert html.count("<") == 2 * (len(tokens) + 3)  # a pair of tags for each token, for both paragraphs and the small print


def test_a_notebook_keeps_html_and_text_in_one_output_between_what_is_printed():
    lines = ["import sys", f"sys.path.insert(0, {str(ROOT)!r})", "from helpers.html import show"]
    code = "\n".join([*lines, "print('before')", "show('<b>1</b>', 'one')", "print('after')"])
    notebook = new_notebook(cells=[new_code_cell(code)], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    NotebookClient(notebook, timeout=120).execute()
    outputs = notebook.cells[0].outputs
    assert [output.output_type for output in outputs] == ["stream", "display_data", "stream"]
    assert outputs[1].data == {"text/html": "<b>1</b>", "text/plain": "one"}


@pytest.mark.parametrize("command", [["-c"], ["-m", "IPython", "--quick", "--colors=NoColor", "-c"]], ids=["python", "ipython"])
def test_in_a_terminal_the_text_is_printed(command: list[str], tmp_path: Path):
    code = "import sys; from helpers.html import show; before = set(sys.modules); show('<b>1</b>', 'one'); print('IPython' in before)"
    own = environ | {"IPYTHONDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, *command, code], cwd=ROOT, capture_output=True, text=True, env=own)
    assert done.stdout == f"one\n{'IPython' in command}\n", done.stderr


def test_a_box_has_an_edge_of_its_colour_and_lets_the_page_shine_through():
    html = boxed("<b>it</b>", GREEN)
    assert f"border-left:5px solid rgb({GREEN})" in html and f"background:rgba({GREEN},0.1)" in html and "><b>it</b><" in html
    assert len({GREEN, AMBER, GREY, WARM, COLD}) == 5


def test_cells_stand_side_by_side_go_below_each_other_and_stay_a_table_without_styles():
    html = side_by_side(["one", "two"], [GREEN, GREY])
    assert "display:flex;flex-wrap:wrap" in html and not re.search(r"(?<![-\w])width:\d+px", html)
    assert [f"rgba({tint},0.12)" in cell for tint, cell in zip([GREEN, GREY], html.split("<td")[1:], strict=True)] == [True, True]
    assert re.sub(r' style="[^"]*"', "", html) == "<table><tbody><tr><td>one</td><td>two</td></tr></tbody></table>"
    with pytest.raises(ValueError):
        side_by_side(["one"], [])


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\ntwo", "one<br>two"),
        ("Is `x < 3`, or `y`?", "Is <code>x &lt; 3</code>, or <code>y</code>?"),
        ("one ` alone", "one ` alone"),
        ("$5 and $6", "<span>$</span>5 and <span>$</span>6"),
        ("<script>`</p>`", "&lt;script&gt;<code>&lt;/p&gt;</code>"),
        ('it\'s "so"', 'it\'s "so"'),
    ],
)
def test_prose_keeps_what_a_text_says(text: str, html: str):
    assert prose(text) == html


@given(st.text(alphabet="a`<>&$\"'\n"))
def test_no_prose_brings_tags_of_its_own(text: str):
    assert set(re.findall(r"<[^>]*>", prose(text))) <= {"<br>", "<code>", "</code>", "<span>", "</span>"}
    assert prose(text).count("<code>") == prose(text).count("</code>")
