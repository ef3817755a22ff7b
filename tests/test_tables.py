"""A table has one line for its heads and one for each row, in columns of the given widths."""

import pytest

from helpers.tables import table


def test_heads_and_text_stand_to_the_side_of_the_cells():
    found = table({"taken away": "<12", "change": "+8.3f", "decisions": "10.1%"}, [("L1 N2", -0.25, 0.5), ("none", "", 0.0)])
    lines = [f"{'taken away':<12} {'change':>8} {'decisions':>10}", f"{'L1 N2':<12} {-0.25:+8.3f} {0.5:10.1%}"]
    assert found.splitlines() == [*lines, f"{'none':<12} {'':>8} {0.0:10.1%}"]


def test_a_wide_cell_moves_what_follows_and_no_line_ends_in_spaces():
    assert table({"a": "<2", "b": "<4"}, [("long", "x"), (1, "")], gap="  ") == "a   b\nlong  x\n1"


def test_a_row_has_a_cell_for_each_column():
    with pytest.raises(ValueError):
        table({"a": "<2"}, [(1, 2)])
