"""Coloured text: deep colours for large values, nothing that a page could take for markup, and the same content in words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.html import COLD, DEEPEST, WARM, activation_html, strongest
from helpers.widgets import readable

SPAN = re.compile(r'<span title="([^"]*)" style="([^"]*)">(.*?)</span>', re.DOTALL)


def depths(html: str) -> list[tuple[str, float]]:
    """For each token its colour and how deep it is; nothing and 0 where it has none."""
    found = [re.search(r"rgba\((\d+,\d+,\d+),([\d.]+)\)", style) for _, style, _ in SPAN.findall(html)]
    return [(match[1], float(match[2])) if match else ("", 0.0) for match in found]


def test_colours_are_warm_above_zero_cold_below_and_as_deep_as_the_value_is_large():
    assert depths(activation_html(["a", "b", "c", "d"], [4.0, -2.0, 0.0, 1.0])) == [
        (WARM, DEEPEST),
        (COLD, pytest.approx(DEEPEST / 2)),
        ("", 0.0),
        (WARM, pytest.approx(DEEPEST / 4)),
    ]


def test_texts_can_share_a_scale_and_what_lies_beyond_it_gets_the_deepest_colour():
    assert depths(activation_html(["a", "b"], [2.0, 50.0], scale=8.0)) == [(WARM, pytest.approx(DEEPEST / 4)), (WARM, DEEPEST)]


def test_a_silent_text_has_no_colour_and_says_so():
    html = activation_html(["so", " quiet"], [0.0, 0.0])
    assert depths(html) == [("", 0.0), ("", 0.0)] and readable(html).splitlines()[-1] == "silent on every token"
    assert readable(activation_html([], [])) == "silent on every token"


def test_values_that_are_no_numbers_get_no_colour_and_are_not_named():
    html = activation_html(["a", "b", "c"], [float("nan"), float("inf"), 2.0])
    assert depths(html) == [("", 0.0), ("", 0.0), (WARM, DEEPEST)] and readable(html).endswith("most on c (2.0)")


def test_every_token_has_its_value_in_words_under_the_mouse():
    html = activation_html([" the", "\n", "x"], [1.234, 0.0, -3.0])
    assert [title for title, _, _ in SPAN.findall(html)] == ["·the 1.23", "⏎ 0.00", "x -3.00"]


def test_line_breaks_are_shown_and_made_and_spaces_kept():
    html = activation_html(["a", "\n", "\t", "\r", "  b"], [0.0] * 5)
    assert [shown for _, _, shown in SPAN.findall(html)] == ["a", "⏎\n", "⇥", "⏎", "  b"] and "white-space:pre-wrap" in html


def test_the_line_below_names_the_strongest_tokens_by_size():
    pieces, values = ["a", " b", "c", "d"], [1.0, -5.0, 3.0, 0.0]
    assert strongest(pieces, values) == "most on ·b (-5.0), c (3.0), a (1.0)"
    assert readable(activation_html(pieces, values, n_words=1)).endswith("most on ·b (-5.0)")
    assert strongest(pieces, values, 10).count("(") == 3


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


def test_markup_is_shown_and_not_obeyed():
    html = activation_html(['<script>"&', "</p>"], [1.0, 2.0])
    assert "<script>" not in html and '&lt;script&gt;"&' not in html and readable(html).startswith('<script>"& </p>')
