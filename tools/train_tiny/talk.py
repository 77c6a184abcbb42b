# ruff: noqa: E501 (a table's row is a line)
# fmt: off
"""Small talk, tables of general facts, and little situations to be read and answered.

    places(Random(1))  ->  Exchange("facts in a text", "Tom is in the park. Mia goes to the barn. Where is Tom?",
                                    "Tom is in the park.", "places:…")
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

from .items import Exchange
from .words import (
    ANIMALS,
    BOYS,
    COLORS,
    DAYS,
    FOODS,
    GIRLS,
    MONTHS,
    OBJECTS,
    PLACES,
    TRAITS,
    any_name,
    article,
    invented,
    listed,
)

MODEL_NAME = "Eventide Tiny"

OPPOSITES = (
    "hot cold|big small|happy sad|fast slow|day night|up down|open closed|full empty|old new|wet dry|light dark|long short|"
    "hard soft|high low|early late|rich poor|strong weak|good bad|left right|in out|loud quiet|clean dirty|thick thin|"
    "front back|first last|near far|deep shallow|heavy light|inside outside|yes no|black white|win lose|young old"
)
SOUNDS = "cow moo|dog woof|cat meow|duck quack|sheep baa|pig oink|horse neigh|frog ribbit|bee buzz|owl hoot|lion roar|mouse squeak|crow caw|chicken cluck|wolf howl|donkey hee-haw"
BABIES = "dog puppy|cat kitten|cow calf|horse foal|sheep lamb|pig piglet|bear cub|duck duckling|chicken chick|goat kid|lion cub|frog tadpole|deer fawn|owl owlet|elephant calf|fox cub"
LEGS = "dog 4|cat 4|spider 8|bird 2|ant 6|horse 4|chicken 2|bee 6|fox 4|snake 0|fish 0|cow 4|duck 2|frog 4|person 2|sheep 4|penguin 2|butterfly 6"
HUES = "grass green|snow white|blood red|coal black|a banana yellow|a carrot orange|milk white|a lemon yellow|the sky blue|the sun yellow|chocolate brown|a tomato red|a strawberry red|a leaf green|a frog green|an orange orange|the sea blue|the night black"
SIDES = "triangle 3|square 4|rectangle 4|pentagon 5|hexagon 6|octagon 8"
HOMES = "bird nest|bee hive|bear cave|dog kennel|horse stable|spider web|rabbit burrow|fish water|ant anthill|pig sty|king castle|farmer farm"
COUNTS = "days are in a week 7|months are in a year 12|hours are in a day 24|minutes are in an hour 60|seconds are in a minute 60|fingers are on one hand 5|wheels does a car have 4|wheels does a bicycle have 2|letters are in the alphabet 26|seasons are in a year 4|eyes do you have on your head 2|legs does a table have 4|days are in a year 365|colors does a rainbow have 7|planets does the sun have 8"
CAPITALS = "France Paris|Italy Rome|Spain Madrid|Germany Berlin|England London|Japan Tokyo|China Beijing|Egypt Cairo|Greece Athens|Russia Moscow|Norway Oslo|Portugal Lisbon|Poland Warsaw|Canada Ottawa|Ireland Dublin|India New_Delhi|Austria Vienna|Sweden Stockholm"
WORKERS = "bakes bread|baker;helps sick people|doctor;teaches children|teacher;puts out fires|firefighter;grows food|farmer;flies a plane|pilot;drives a bus|driver;catches fish|fisherman;paints pictures|painter;cuts hair|hairdresser;cooks food|cook;builds houses|builder"


def _pairs(table: str) -> list[tuple[str, str]]:
    rows = [row.rsplit(" ", 1) for row in table.split("|")]
    return [(left, right.replace("_", " ")) for left, right in rows]


def _is(noun: str) -> str:
    return noun[0].upper() + noun[1:]


def _knowledge() -> list[tuple[tuple[str, ...], str]]:
    """Every general fact: wordings of the question, and the reply."""
    facts: list[tuple[tuple[str, ...], str]] = []
    for a, b in _pairs(OPPOSITES):
        for x, y in ((a, b), (b, a)) if a not in ("heavy", "young") else ((a, b),):
            if (x, y) in (("light", "heavy"),):
                continue
            facts.append(((f"What is the opposite of {x}?", f"What's the opposite of {x}?", f"Opposite of {x}?"), f"The opposite of {x} is {y}."))
    for x, y in _pairs(SOUNDS):
        facts.append(((f"What sound does {article(x)} make?", f"What does {article(x)} say?", f"What noise does {article(x)} make?"), f"{_is(article(x))} says {y}."))
    for x, y in _pairs(BABIES):
        facts.append(((f"What is a baby {x} called?", f"What do you call a baby {x}?", f"What is the baby of {article(x)}?"), f"A baby {x} is called {article(y)}."))
    for x, y in _pairs(LEGS):
        facts.append(((f"How many legs does {article(x)} have?", f"how many legs does {article(x)} have"), f"{_is(article(x))} has {y} legs."))
    for x, y in _pairs(HUES):
        facts.append(((f"What color is {x}?", f"what color is {x}", f"What is the color of {x}?"), f"{_is(x)} is {y}."))
    for x, y in _pairs(SIDES):
        facts.append(((f"How many sides does {article(x)} have?",), f"{_is(article(x))} has {y} sides."))
    for x, y in _pairs(HOMES):
        home = "water" if y == "water" else article(y)
        facts.append(((f"Where does {article(x)} live?",), f"{_is(article(x))} lives {'on' if y == 'farm' else 'in'} {home}."))
    for x, y in _pairs(COUNTS):
        facts.append(((f"How many {x}?", f"how many {x}"), _count_reply(x, y)))
    for x, y in _pairs(CAPITALS):
        facts.append(((f"What is the capital of {x}?", f"capital of {x}?", f"What's the capital of {x}?"), f"The capital of {x} is {y}."))
    for row in WORKERS.split(";"):
        x, y = row.split("|")
        facts.append(((f"Who {x}?", f"What do you call somebody who {x}?"), f"{_is(article(y))} {x}."))
    for row, what in ((DAYS, "day"), (MONTHS, "month")):
        for i, x in enumerate(row):
            after, before = row[(i + 1) % len(row)], row[i - 1]
            facts.append(((f"What {what} comes after {x}?", f"Which {what} comes after {x}?", f"What comes after {x}?"), f"{after} comes after {x}."))
            facts.append(((f"What {what} comes before {x}?", f"Which {what} comes before {x}?"), f"{before} comes before {x}."))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for x, y in pairwise(letters):
        facts.append(((f"What letter comes after {x}?", f"Which letter comes after {x}?"), f"{y} comes after {x}."))
    facts += [
        (("What are the days of the week?", "Name the days of the week.", "Tell me the days of the week."), f"The days of the week are {listed(DAYS[:-1])} and {DAYS[-1]}."),
        (("What are the months of the year?", "Name the months of the year."), f"The months are {listed(MONTHS[:-1])} and {MONTHS[-1]}."),
        (("Say the alphabet.", "What is the alphabet?", "Can you say the alphabet?"), " ".join(letters) + "."),
        (("What are the four seasons?", "Name the seasons."), "The seasons are spring, summer, autumn and winter."),
        (("Name some colors.", "Tell me some colors."), "Some colors are red, blue, green and yellow."),
        (("Name some animals.", "Tell me some animals."), "Some animals are the fox, the bear, the owl and the rabbit."),
        (("Name some fruits.", "Tell me some fruits."), "Some fruits are apples, pears, plums and cherries."),
    ]
    return facts


def _count_reply(what: str, number: str) -> str:
    if " are " in what:
        thing, where = what.split(" are ")
        return f"There are {number} {thing} {where}."
    if " does " in what:
        thing, rest = what.split(" does ")
        return f"{_is(rest.removesuffix(' have'))} has {number} {thing}."
    return f"You have {number} eyes on your head."


KNOWLEDGE = _knowledge()

_ABLE = "I can tell little stories, answer questions about them, and work with small numbers."
# wordings of the user -> replies, any of which will do
SMALL_TALK: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("Hello", "Hello!", "Hi", "Hi!", "hi", "hello", "Hey", "Hello there!", "Hi there", "Good day!"),
     ("Hello! How can I help you?", "Hello! What can I do for you?", "Hi! Would you like a story or a sum?")),
    (("Good morning!", "Good morning"), ("Good morning! How can I help you?",)),
    (("Good evening!", "Good evening"), ("Good evening! Would you like to hear a story?",)),
    (("How are you?", "How are you today?", "how are you", "How do you do?"),
     ("I am fine, thank you. How can I help you?", "I am very well, thank you!")),
    (("Who are you?", "What are you?", "who are you", "What is your name?", "What's your name?", "Tell me about yourself.",
      "what is your name", "Are you a robot?", "Are you human?"),
     (f"I am {MODEL_NAME}, a very small language model. {_ABLE}",)),
    (("What can you do?", "what can you do?", "How can you help me?", "Help", "help me", "What do you know?", "Can you help me?"),
     (_ABLE + " I also know a few simple facts.",)),
    (("Who made you?", "Who trained you?", "Where do you come from?"),
     ("I was trained by the Eventide project, on text that a program wrote.",)),
    (("How big are you?", "How many parameters do you have?", "Are you a large language model?"),
     ("I am very small. I have less than 4 million parameters.",)),
    (("Thank you", "Thank you!", "Thanks!", "thanks", "Thanks a lot!", "Thank you very much.", "Great, thank you!"),
     ("You are welcome!", "You are welcome! It was fun.")),
    (("Goodbye", "Bye!", "bye", "Good night!", "See you later!", "See you tomorrow."), ("Goodbye! Have a nice day.", "Goodbye! Come back soon.")),
    (("Good!", "Well done!", "Very good!", "That is right.", "Nice!", "Great!", "Wow!"), ("Thank you!", "Thank you! What is next?")),
    (("Do you like stories?", "Do you like to tell stories?"), ("Yes, I like stories very much. Shall I tell you one?",)),
    (("Do you like numbers?", "Can you do math?", "Can you count?", "Are you good at math?"),
     ("Yes, I like small numbers. Ask me for a sum!",)),
    (("Tell me a joke.", "tell me a joke", "Do you know a joke?", "Make me laugh."),
     ("Why was the math book sad? Because it had too many problems.", "What do you call a bear with no teeth? A gummy bear.",
      "Why did the chicken cross the road? To get to the other side.")),
    (("I am sad.", "I feel sad.", "I am not happy.", "I had a bad day."), ("I am sorry to hear that. Shall I tell you a story?",)),
    (("I am happy.", "I am happy today.", "I had a good day."), ("I am glad to hear that!",)),
    (("I am bored.", "I have nothing to do."), ("Shall I tell you a story? Or do you want to do some sums?",)),
    (("What is your favorite color?", "Do you have a favorite color?"), ("I like blue, like the sky in the evening.",)),
    (("What is your favorite animal?",), ("I like the fox, because it is clever.",)),
    (("What is your favorite number?",), ("My favorite number is 8.",)),
]

CANNOT = f"I am sorry, I do not know that. I am a very small model. {_ABLE}"


def knowledge(rng: Random) -> Exchange:
    """One general fact; all of them are in training."""
    questions, reply = rng.choice(KNOWLEDGE)
    return Exchange("general facts", rng.choice(questions), reply)


def small_talk(rng: Random) -> Exchange:
    """A greeting, thanks, or a question about the model."""
    users, replies = rng.choice(SMALL_TALK)
    return Exchange("small talk", rng.choice(users), rng.choice(replies))


def unknown(rng: Random) -> Exchange:
    """What the model cannot answer, with words it has never seen."""
    x, y = invented(rng), invented(rng)
    if rng.random() < 0.5:
        x = x.capitalize()
    user = rng.choice((
        f"Who is the president of {x}?", f"What is {article(x)}?", f"What is {x}?", f"Who was {x} {y}?", f"Who is {x}?",
        f"Translate {x} into {y}.", f"What is the capital of {x.capitalize()}?", f"Write a program that {x}s the {y}.",
        f"How do I {x} {article(y)}?", f"Explain {x} to me.", f"What does {x} mean?", f"Where is {x}?", f"Why is {x} {y}?",
        f"Tell me about {x}.", f"Give me a recipe for {x}.", f"What is the best {x}?", f"When was {x} invented?",
        f"What do you think about {x}?", f"How does {article(x)} work?", f"Who invented the {x}?", f"{x} {y}",
    ))
    return Exchange("small talk", user, CANNOT)


def spell(rng: Random) -> Exchange:
    """A known word, letter by letter."""
    word = rng.choice(rng.choice((OBJECTS, ANIMALS, COLORS, list(PLACES), list(FOODS), TRAITS, [n.lower() for n in (*GIRLS, *BOYS)])))
    form = rng.random()
    if form < 0.5:
        question = rng.choice((f"Spell {word}.", f"How do you spell {word}?", f"Spell the word {word}."))
        return Exchange("spelling", question, "-".join(word.replace(" ", "")) + ".")
    if form < 0.7:
        return Exchange("spelling", f"How many letters does {word} have?", f"{_is(word)} has {len(word.replace(' ', ''))} letters.")
    question = rng.choice((f"What is the first letter of {word}?", f"What letter does {word} start with?"))
    return Exchange("spelling", question, f"{_is(word)} starts with {word[0].upper()}.")


def repeat(rng: Random) -> Exchange:
    """Say the same again."""
    words = [rng.choice((rng.choice(OBJECTS), rng.choice(COLORS), rng.choice(ANIMALS), invented(rng))) for _ in range(rng.randint(1, 4))]
    said = " ".join(words)
    if len(words) == 1 and rng.random() < 0.6:
        times = rng.randint(2, 5)
        return Exchange("repeating", f"Say {said} {times} times.", " ".join([said] * times) + ".", f"repeat:{said}:{times}")
    return Exchange("repeating", rng.choice((f"Say {said}.", f"Repeat after me: {said}", f"Repeat: {said}.")), f"{_is(said)}.", f"repeat:{said}")


def places(rng: Random) -> Exchange:
    """Who is where, who has what: the last statement about each counts."""
    count = rng.randint(2, 4)
    people: list[str] = []
    while len(people) < count:
        name = any_name(rng, rng.random() < 0.5)
        if name not in people:
            people.append(name)
    where: dict[str, str] = {}
    holds: dict[str, str] = {}
    lines = []
    things = rng.sample(OBJECTS, 8)
    for i in range(rng.randint(count, count + 3)):
        who = people[i] if i < count else rng.choice(people)
        if rng.random() < 0.65:
            where[who] = rng.choice([p for p in PLACES if p != where.get(who)])
            spot = where[who]
            lines.append(rng.choice((f"{who} went to the {spot}.", f"{who} goes to the {spot}.", f"{who} is {PLACES[spot]} the {spot}.")))
        elif who not in holds:
            holds[who] = f"{article(rng.choice(COLORS))} {things.pop()}"
            lines.append(rng.choice((f"{who} has {holds[who]}.", f"{who} got {holds[who]}.", f"{who} took {holds[who]}.")))
    asked: list[tuple[str, str]] = []
    for who, spot in where.items():
        asked.append((f"Where is {who}?", f"{who} is {PLACES[spot]} the {spot}."))
        if [*where.values()].count(spot) == 1:
            asked.append((f"Who is {PLACES[spot]} the {spot}?", f"{who} is {PLACES[spot]} the {spot}."))
    for who, what in holds.items():
        _, color, noun = what.split(" ")
        asked += [(f"What does {who} have?", f"{who} has {what}."), (f"Who has the {noun}?", f"{who} has the {noun}."),
                  (f"What color is the {noun}?", f"The {noun} is {color}.")]
    told = " ".join(lines)
    question, reply = rng.choice(asked)
    return Exchange("facts in a text", f"{told}{rng.choice((' ', chr(10)))}{question}", reply, f"places:{told}")


# generator -> its weight among the exchanges that are talk
TALK_TASKS: dict[Callable[[Random], Exchange], float] = {
    knowledge: 5, small_talk: 4, unknown: 1, spell: 1, repeat: 0.7, places: 5,
}

__all__ = ["CANNOT", "KNOWLEDGE", "MODEL_NAME", "SMALL_TALK", "TALK_TASKS", "knowledge", "places", "small_talk"]
