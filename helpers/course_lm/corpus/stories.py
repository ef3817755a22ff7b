"""Short stories: a hero, a wish or a problem, events that follow from each other, and a feeling.

A story is a path through a plot: one choice at each step. The words in braces are drawn when they
are first needed and are then remembered, so that a scarf stays red until the end.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from helpers.course_lm.corpus.base import Probe, an, phrases, sentence, table
from helpers.course_lm.heldout import held_out
from helpers.course_lm.world import World

STORIES = phrases("stories")
PLOTS = phrases("plots")
ANIMALS: list[str] = STORIES["animals"]
# An opening is a phrase before the first sentence, or a sentence of its own that ends in a stop.
OPENINGS: list[str] = STORIES["openings"]
LONG_AGO = ("Once", "Long ago", "Many years")
RECENT = [opening for opening in OPENINGS if not opening.startswith(LONG_AGO)]
EXCLAMATIONS: dict[str, list[str]] = STORIES["exclamations"]
STRENGTHS: list[str] = STORIES["strengths"]  # what is said of a trifle (grade 1) up to a catastrophe (grade 5)

FORMS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}
CHILD = {"he": "boy", "she": "girl"}


class Cast(dict[str, str]):
    """The words of one story: who takes part, and every slot as soon as it has been drawn."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self.rng = rng

    def __missing__(self, key: str) -> str:
        """Draws a slot at its first use; a capital letter in its name makes a capital letter."""
        if key[0].isupper():
            return sentence(self[key.lower()])
        if key in ("friend", "adult"):
            self[key] = self["later " + key]
            return self["first " + key]
        drawn = self.rng.choice(STORIES["slots"][key])
        if key not in ("said", "soon"):
            self[key] = drawn.replace("a ", "the ", 1) if key in ("gift", "prize") else drawn
        return drawn

    def tell(self, template: str) -> str:
        """Fills the slots of one step."""
        return sentence(template.format_map(self))

    def tell_one(self, templates: Sequence[str]) -> str:
        """Fills the slots of one of several ways to tell a step."""
        return self.tell(self.rng.choice(templates))


def cast_of(world: World, rng: Random, animals: bool = True) -> Cast:
    """Draws a hero, a friend and a grown-up: children with names, or the animals of a tale."""
    pronoun = rng.choice(("he", "she"))
    cast = Cast(rng)
    if animals and rng.random() < 0.35:
        hero, friend, elder = rng.sample(ANIMALS, 3)
        new = an(f"{rng.choice(STORIES['animal_manners'])} {hero}")
        cast |= {"key": hero, "hero": f"the {hero}", "new": new, "kind": "tale"}
        cast |= {"first friend": an(friend), "later friend": f"the {friend}"}
        cast |= {"first adult": f"an old {elder}", "later adult": f"the old {elder}"}
    else:
        child = world.pick(rng, "firstnames")
        hero = child["name"]
        pronoun = child["pronoun"]
        while (friend := world.pick(rng, "firstnames")["name"]) == hero:
            pass
        his = FORMS[pronoun][2]
        adult = f"{his} {rng.choice(STORIES['relatives'])}"
        cast |= {"key": hero, "hero": hero, "new": hero, "kind": CHILD[pronoun]}
        cast |= {"first friend": f"{his} friend {friend}", "later friend": friend}
        cast |= {"first adult": adult, "later adult": adult}
    cast |= zip(("he", "him", "his"), FORMS[pronoun], strict=True)
    return cast


def introduction(cast: Cast, opening: str, start: str) -> str:
    """The first sentence or two: the opening, the hero, and the event with which all begins."""
    rng = cast.rng
    if opening.startswith(LONG_AGO) and rng.random() < 0.6:
        who = cast["new"]
        if cast["kind"] != "tale":
            manner = rng.choice(STORIES["child_manners"])
            who = f"a {manner} {cast['kind']} called {cast['hero']}"
        where = rng.choice(STORIES["introductions"]).format(who)
        beginning = rng.choice(STORIES["beginnings"])
        return f"{opening} {where}. {cast.tell(f'{beginning} {start}.')}"
    who = sentence(cast["new"]) if opening.endswith(".") else cast["new"]
    return f"{opening} {who} {start.format_map(cast)}."


def _tell(cast: Cast, plot: dict[str, Any], opening: str) -> list[str]:
    """The sentences of one story; sometimes a common ending takes the place of the plot's own."""
    rng = cast.rng
    lines = [introduction(cast, opening, rng.choice(plot["start"]))]
    *steps, ending = plot["steps"]
    steps.append(STORIES["endings"] if rng.random() < 0.25 else ending)
    return lines + [told for step in steps if (told := cast.tell_one(step))]


def story(world: World, rng: Random) -> str | None:
    """A short story; None if its hero and its opening are held out."""
    plot = PLOTS[rng.choice(tuple(PLOTS))]
    cast = cast_of(world, rng, plot["animals"])
    opening = rng.choice(OPENINGS)
    if held_out("story", cast["key"], opening):
        return None
    return " ".join(_tell(cast, plot, opening))


def _swearing(world: World, rng: Random) -> str | None:
    """A story with an exclamation: a mild word for a small mishap, a swear word for a disaster."""
    cast = cast_of(world, rng, animals=False)
    opening = rng.choice(RECENT)
    grade = rng.choice(tuple(EXCLAMATIONS))
    if held_out("story", cast["key"], opening):
        return None
    usual, *others = EXCLAMATIONS[grade]  # the usual one comes as often as all the others together
    word = rng.choice((usual, rng.choice(others)))
    voice = rng.choice(("said", rng.choice(STORIES["voices"][grade])))
    doing = rng.choice(tuple(STORIES["mishaps"]))
    told = [introduction(cast, opening, f"was {doing}"), *map(cast.tell_one, (STORIES["between"], STORIES["mishaps"][doing][grade]))]
    before = rng.random() < 0.7
    told.append(cast.tell(f"{{He}} {voice}: {word}!" if before else f'"{word}!" {{he}} {voice}.'))
    return " ".join([*told, cast.tell_one(STORIES["moods"][grade])])


# --- Mishaps of five grades, and what is said of them ---------------------------------------------


def _draw_mishap(rng: Random, grade: int) -> tuple[str, str, str]:
    """A mishap of a ``grade``, what somebody was doing, and its kind: its own sentence, or a pattern that fits many things."""
    rows = [row for row in table("mishaps") if row["grade"] == str(grade)]
    row = rng.choice(rows)
    if rng.random() < 0.6:
        return row["sentence"], row["doing"], row["sentence"]
    pattern = rng.choice(STORIES["strength_patterns"][str(grade)])
    return pattern.format(x=rng.choice(STORIES["strength_things"])), row["doing"], pattern


def _told_until_the_mishap(world: World, rng: Random, happened: str, doing: str) -> tuple[Cast, str]:
    """The story before anybody says a word."""
    cast = cast_of(world, rng, animals=False)
    opening = rng.choice(RECENT)
    while held_out("story", cast["key"], opening):
        opening = rng.choice(RECENT)
    told = [introduction(cast, opening, f"was {doing}")]
    told += [cast.tell_one(STORIES["between"])] if rng.random() < 0.7 else []
    return cast, " ".join([*told, happened])


def _exclaiming(world: World, rng: Random) -> str:
    """A mishap and the exclamation that its grade calls for; the voice says nothing of the grade. Held-out mishaps get no word."""
    grade = rng.randint(1, 5)
    happened, doing, _ = _draw_mishap(rng, grade)
    silent = held_out("mishap", happened) or rng.random() < 0.3
    mood = rng.choice(STORIES["strength_moods"][str(grade)])
    words = {"w": STRENGTHS[grade - 1], "m": happened, "v": rng.choice(STORIES["strength_voices"])}
    if rng.random() < 0.45:
        notes = STORIES["plain_notes" if silent else "strength_notes"]
        cast = cast_of(world, rng, animals=False)
        cast["friend"] = cast["later friend"]  # there is no room to introduce anybody
        words |= {"n": cast["key"], "f": cast["friend"], "he": cast["he"], "mood": cast.tell(mood)}
        return rng.choice(notes).format(**words, d=rng.choice(STORIES["strength_days"]))
    cast, told = _told_until_the_mishap(world, rng, happened, doing)
    if silent:
        return f"{told} {cast.tell(mood)}"
    shape = "{{He}} {v}: {w}!" if rng.random() < 0.6 else '"{w}!" {{he}} {v}.'
    cry = cast.tell(shape.format(**words))
    return f"{told} {cry} {cast.tell(mood)}" if rng.random() < 0.6 else f"{told} {cry}"


def mishap(world: World, rng: Random) -> str | None:
    """A mishap and what is said of it: one of five harmless exclamations, in some stories a swear word."""
    return _swearing(world, rng) if rng.random() < 0.13 else _exclaiming(world, rng)


def exclamation_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Stories up to the exclamation, about mishaps that are told elsewhere without one; ``wrong`` is a neighbouring strength.

    The grades come equally often; the group is the grade.
    """
    return [probe for _, probe in exclamation_scenes(world, rng, n, told=False)]


def exclamation_scenes(world: World, rng: Random, n: int, told: bool) -> list[tuple[str, Probe]]:
    """The same with the kind of each mishap; ``told``: mishaps that come with their exclamation elsewhere."""
    scenes: list[tuple[str, Probe]] = []
    while len(scenes) < n:
        grade = len(scenes) % 5 + 1
        happened, doing, kind = _draw_mishap(rng, grade)
        if held_out("mishap", happened) == told:
            continue
        cast, before = _told_until_the_mishap(world, rng, happened, doing)
        said = f"{cast.tell('{He}')} {rng.choice(STORIES['strength_voices'])}:" if rng.random() < 0.6 else '"'
        wrong = STRENGTHS[grade - 2 if grade == 5 or (grade > 1 and rng.random() < 0.5) else grade]
        scenes.append((kind, Probe(f"{before} {said}", STRENGTHS[grade - 1], wrong, group=str(grade))))
    return scenes


# --- Untold stories -------------------------------------------------------------------------------


def story_probes(world: World, rng: Random, n: int) -> list[Probe]:
    """Beginnings of stories that were never told, to be continued; there is no right answer."""
    probes = []
    for _ in range(n):
        plot = PLOTS[rng.choice(tuple(PLOTS))]
        told = True
        while told:
            cast = cast_of(world, rng, plot["animals"])
            opening = rng.choice(OPENINGS)
            told = not held_out("story", cast["key"], opening)
        lines = _tell(cast, plot, opening)
        probes.append(Probe(" ".join(lines[: rng.choice((1, 2))]), "", group="story"))
    return probes


INGREDIENTS = (story, mishap)
