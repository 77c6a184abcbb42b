# ruff: noqa: SIM905 (word lists are read as prose, not as literals)
# fmt: off
"""The lexicon: closed lists, so that a checkpoint of a few megabytes can know every word it meets, plus invented names.

A third of the characters carry names put together from syllables: copying a name it has never seen is what lets the
model tell a story about whomever the user asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

GIRLS = (
    "Mia Lily Anna Emma Rosa Zoe Nora Ella Ruby Ivy Maya Lucy Clara Alice Daisy Hana Sara Tina Bella Luna Eva Julia Nina "
    "Grace Holly Molly Sophie Amy Kate Jane"
).split()
BOYS = (
    "Tom Ben Max Sam Leo Finn Jack Noah Oscar Henry Theo Hugo Felix Toby Adam Omar Luca Peter Milo Jonas Ravi Kenji Pablo "
    "Otto Tim Bob Billy Charlie Fred Paul"
).split()
ANIMALS = (
    "fox rabbit bear mouse owl frog cat dog duck squirrel hedgehog turtle deer lion elephant pig goat horse sheep penguin "
    "monkey tiger crow beaver mole badger otter kitten puppy dragon chicken cow donkey wolf snail bee koala panda zebra "
    "snake bird dinosaur unicorn giraffe crocodile camel hamster parrot"
).split()
# beings that are no animals -> whether they are always she (True), always he (False) or either (None)
BEINGS: dict[str, bool | None] = {
    "girl": True, "boy": False, "princess": True, "prince": False, "queen": True, "king": False, "fairy": True,
    "wizard": None, "knight": None, "giant": None, "robot": None,
}
TRAITS = "little kind brave clever shy cheerful quiet curious gentle young friendly small happy lazy busy".split()
COLORS = "red blue green yellow white black brown pink orange purple golden silver".split()
OBJECTS = (
    "ball kite hat boat book cup drum key bell scarf lamp box coin basket blanket toy flute map spoon ring bag button "
    "mirror umbrella balloon pencil feather ribbon wagon doll stone shell clock"
).split()
# (place, the preposition of being there)
PLACES: dict[str, str] = {
    "park": "in", "forest": "in", "garden": "in", "river": "by", "lake": "by", "beach": "on", "hill": "on", "farm": "on",
    "market": "at", "school": "at", "meadow": "in", "barn": "in", "village": "in", "cave": "in", "mountain": "on",
    "pond": "by", "field": "in", "library": "in", "bridge": "on", "castle": "in", "island": "on", "old mill": "by",
}
SPOTS = (
    "under a bush", "behind a tree", "under the bed", "behind a big rock", "in the tall grass", "under a bench",
    "behind the fence", "under a pile of leaves", "behind the door", "next to a flower pot", "on top of a wall",
    "inside a hollow log",
)
# plural -> singular
FOODS: dict[str, str] = {
    "apples": "apple", "pears": "pear", "cookies": "cookie", "carrots": "carrot", "nuts": "nut", "berries": "berry",
    "cakes": "cake", "plums": "plum", "cherries": "cherry", "sandwiches": "sandwich", "oranges": "orange",
    "lemons": "lemon",
}
THINGS_COUNTED: dict[str, str] = FOODS | {
    "balls": "ball", "books": "book", "coins": "coin", "stones": "stone", "shells": "shell", "flowers": "flower",
    "toys": "toy", "pencils": "pencil", "eggs": "egg", "stars": "star", "marbles": "marble", "leaves": "leaf",
}
FEARS = (
    "the dark", "the thunder", "deep water", "high places", "loud noises", "spiders", "the wind", "the big slide",
)
GAMES = (
    "hide and seek", "catch", "tag", "chess", "with a ball", "in the sand", "a song on the drum", "a guessing game",
)
WEATHERS: dict[str, str] = {
    "sunny": "The sun was shining.", "windy": "The wind was blowing.", "cold": "The air was cold.",
    "warm": "The air was warm.", "cloudy": "The sky was full of clouds.", "snowy": "Snow lay on the ground.",
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()

_ONSETS = "b d f g h j k l m n p r s t v w z br dr fl gr kl pl st tr sh ch".split()
_VOWELS = "a e i o u".split()
_CODAS = ["", "", "", "n", "r", "l", "x", "m", "s", "ck", "p"]


@dataclass(frozen=True)
class Character:
    """Somebody in a story: `kind` is girl, boy or an animal; the pronouns agree with the name."""

    name: str
    kind: str
    they: str
    them: str
    their: str

    @property
    def whose(self) -> str:
        """The possessive of the name."""
        return self.name + "'s"


def article(noun: str) -> str:
    """`noun` with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def listed(words: list[str]) -> str:
    """The words joined by commas."""
    return ", ".join(words)


def invented(rng: Random, syllables: int | None = None) -> str:
    """A lower-case word that means nothing, such as `zorbin`."""
    count = syllables or rng.choice((1, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)) + rng.choice(_CODAS)


def any_name(rng: Random, girl: bool) -> str:
    """A listed or, one time in three, an invented first name."""
    if rng.random() < 0.33:
        return invented(rng, rng.choice((2, 2, 3))).capitalize()
    return rng.choice(GIRLS if girl else BOYS)


def character(rng: Random, unlike: Character | None = None) -> Character:
    """A new character whose name and kind differ from those of `unlike`."""
    while True:
        draw = rng.random()
        kind = rng.choice(("girl", "boy") if draw < 0.25 else list(BEINGS)[2:] if draw < 0.4 else ANIMALS)
        either = rng.random() < 0.5
        fixed = BEINGS.get(kind)
        girl = either if fixed is None else fixed
        name = any_name(rng, girl)
        if unlike is None or (name != unlike.name and kind != unlike.kind):
            return Character(name, kind, *(("she", "her", "her") if girl else ("he", "him", "his")))
