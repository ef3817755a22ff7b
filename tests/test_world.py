"""The tables of facts: every name spelt one way, one answer to every question, and nothing missing that the lecture names."""

from collections import Counter
from random import Random

import pytest

from helpers.course_lm.facts import all_facts, chains, relations
from helpers.course_lm.world import World, fame

WORLD = World.load()
KEYS = {name: next(iter(rows[0])) for name, rows in WORLD.tables.items()}  # the column that names a row


def one(table: str, name: str) -> dict[str, str]:
    """The only row of ``table`` with this name."""
    [row] = [row for row in WORLD.rows(table) if row[KEYS[table]] == name]
    return row


def test_a_few_thousand_facts_over_many_relations():
    assert len(relations()) >= 20
    assert 2000 <= len(all_facts(WORLD)) <= 8000
    assert len(chains()) > 1000


@pytest.mark.parametrize("name", relations())
def test_every_relation_has_one_answer_per_subject(name: str):
    relation = relations()[name]
    subjects = Counter(f.subject for f in all_facts(WORLD) if f.relation.name == name)
    assert len(subjects) >= 20
    assert [subject for subject, count in subjects.items() if count > 1] == []
    assert all(row[relation.subject] for row in WORLD.rows(relation.table))


@pytest.mark.parametrize("name", relations())
def test_statements_and_questions_have_their_slots(name: str):
    relation = relations()[name]
    assert len(relation.statements) >= 4 and len(relation.questions) >= 1
    assert len(set(relation.statements)) == len(relation.statements)
    for text in relation.statements:
        assert text.count("{s}") == text.count("{o}") == 1 and text.count("{") == 2 and text.endswith((".", "!"))
    for text in relation.questions:
        assert text.count("{s}") == text.count("{") == 1 and text.endswith("?")
    assert len(relation.forward) >= 3


def test_every_country_is_a_country():
    countries = set(WORLD.column("countries", "name"))
    named = {(table, row["country"]) for table, rows in WORLD.tables.items() for row in rows if row.get("country")}
    assert len({table for table, _ in named}) >= 7
    assert {pair for pair in named if pair[1] not in countries} == set()


@pytest.mark.parametrize("table", [name for name in WORLD.tables if name not in ("sequences", "requests", "synonyms")])
def test_no_row_is_there_twice(table: str):
    names = Counter(WORLD.column(table, KEYS[table]))
    assert [name for name, count in names.items() if count > 1] == []


def spellings(names: list[str]) -> list[set[str]]:
    """Names that differ in nothing but case, spaces, hyphens, full stops or an article."""
    same: dict[str, set[str]] = {}
    for name in names:
        same.setdefault("".join(c for c in name.lower().removeprefix("the ") if c.isalnum()), set()).add(name)
    return [ways for ways in same.values() if len(ways) > 1]


ENTITIES = {
    "countries": "name capital continent", "cities": "name country", "landmarks": "name city country", "people": "name country birthplace",
    "couples": "person spouse", "musicians": "name", "songs": "title performer", "books": "title author", "paintings": "title painter",
    "films": "title director", "inventions": "inventor", "works": "title composer", "companies": "name city country founder",
    "universities": "name city", "rivers": "name country continent", "mountains": "name country", "dishes": "country", "gods": "name",
}  # fmt: skip


def test_every_entity_is_spelt_one_way():
    names = [name for table, columns in ENTITIES.items() for column in columns.split() for name in WORLD.column(table, column)]
    assert [ways for ways in spellings(names) if "Little Mermaid" not in ways] == []  # the statue in Copenhagen and the tale
    assert spellings(["Rio de Janeiro", "Rio De Janeiro", "Paris"]) == [{"Rio de Janeiro", "Rio De Janeiro"}]
    assert spellings(["The Beatles", "Beatles"]) and spellings(["Yo-Yo Ma", "Yo Yo Ma"])


def test_tables_hold_clean_text():
    for table, rows in WORLD.tables.items():
        for row in rows:
            assert None not in row and None not in row.values(), (table, row)
            assert all(text == " ".join(text.split()) for text in row.values()), (table, row)
            foreign = {"fr", "de", "zh"}
            assert all(text.isascii() for column, text in row.items() if column not in foreign), (table, row)


def test_people_are_known_under_the_names_that_other_tables_use():
    people = set(WORLD.column("people", "name"))
    for table, column in (("musicians", "name"), ("books", "author"), ("paintings", "painter"), ("couples", "person")):
        assert set(WORLD.column(table, column)) <= people, (table, set(WORLD.column(table, column)) - people)


def test_couples_are_couples_both_ways_and_opposites_differ():
    spouse = {row["person"]: row["spouse"] for row in WORLD.rows("couples")}
    assert all(spouse.get(other, person) == person for person, other in spouse.items())
    assert all(row["word"] != row["opposite"] for row in WORLD.rows("adjectives"))


def test_the_lecture_finds_its_entities():
    taipei = one("landmarks", "Taipei 101")
    assert (taipei["kind"], taipei["city"], taipei["country"]) == ("tower", "Taipei", "Taiwan") and "101" in taipei["zh"]
    bridge = [one("landmarks", "Golden Gate Bridge")[column] for column in ("city", "fr", "de", "zh")]
    assert bridge == ["San Francisco", "pont du Golden Gate", "Golden-Gate-Brücke", "金門大橋"]
    assert one("countries", "Poland")["capital"] == "Warsaw"
    assert one("songs", "Imagine")["performer"] == "John Lennon" and one("couples", "John Lennon")["spouse"] == "Yoko Ono"
    assert {"Eiffel Tower", "Longshan Temple", "Brandenburg Gate"} <= set(WORLD.column("landmarks", "name"))


def test_the_periodic_table_is_complete():
    elements = WORLD.rows("elements")
    assert sorted(int(row["number"]) for row in elements) == list(range(1, 119))
    assert len({row["symbol"] for row in elements}) == 118
    facts = {row["name"]: (row["symbol"], int(row["number"])) for row in elements}
    assert facts["iron"] == ("Fe", 26) and facts["gold"] == ("Au", 79) and facts["terbium"] == ("Tb", 65)
    assert list(facts).index("iron") < list(facts).index("terbium")


def test_fame_falls_as_a_known_power_law():
    schedule = [fame(rank, 100) for rank in range(100)]
    assert schedule[0] == 1 and schedule == sorted(schedule, reverse=True) and len(set(schedule)) == 100
    assert fame(0, 100) / fame(100, 100) == pytest.approx(15**0.6)
    assert fame(10, 100) == pytest.approx(2.4**-0.6) == fame(20, 200)


def test_famous_rows_are_drawn_more_often():
    rng = Random(0)
    drawn = Counter(WORLD.pick(rng, "elements")["name"] for _ in range(20_000))
    names = WORLD.column("elements", "name")
    assert drawn[names[0]] / drawn[names[-1]] == pytest.approx(fame(0, 118) / fame(117, 118), rel=0.4)


def test_wrong_tables_are_named():
    with pytest.raises(KeyError, match="There is no table 'planets'"):
        WORLD.rows("planets")
