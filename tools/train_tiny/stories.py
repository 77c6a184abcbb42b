"""Little stories: a hero, a friend, a thing, a place, something that happens, and why.

A `Teller` holds who and what the story is about and collects sentences. Each plot of `plots.py` calls `say` with
alternative wordings of one event, and `ask` with a question about it and the one right reply, so every stated answer is
a fact that the same lines have put into the text.

    told = tell(Random(7))
    told.text      "Once upon a time, a kind fox named Mia lived by the river. …"
    told.facts[2]  Exchange("story_qa", "What color was the kite?", "The kite was red.", "story:lost:fox:hill")
"""

from __future__ import annotations

from random import Random

from .items import Exchange, Split, Story, in_split
from .words import BEINGS, COLORS, OBJECTS, PLACES, SPOTS, TRAITS, Character, article, character

STORY_QA = "story questions"


class Teller:
    """The state of one story while it is told: the cast, the sentences so far, the facts so far."""

    def __init__(self, rng: Random, plot: str) -> None:
        self.rng = rng
        self.plot = plot
        self.hero = character(rng)
        self.friend = character(rng, unlike=self.hero)
        self.trait = rng.choice(TRAITS)
        self.thing = rng.choice(OBJECTS)
        self.color = rng.choice(COLORS)
        self.home, self.place = rng.sample(list(PLACES), 2)
        self.spot = rng.choice(SPOTS)
        self.sentences: list[str] = []
        self.questions: list[tuple[str, str]] = []
        # what a user could have asked the story to be about
        self.subjects: list[str] = []

    @property
    def key(self) -> str:
        """The combination that is either trained on or held out."""
        return f"story:{self.plot}:{self.hero.kind}:{self.place}"

    def at(self, place: str) -> str:
        """`place` with its article and the preposition of being there."""
        return f"{PLACES[place]} the {place}"

    def say(self, *wordings: str) -> None:
        """Add one of the wordings."""
        self.sentences.append(self.rng.choice(wordings))

    def pause(self) -> None:
        """Begin a new paragraph."""
        self.sentences.append("\n\n")

    def ask(self, questions: str | tuple[str, ...], reply: str) -> None:
        """Note that each of the questions has this reply."""
        for question in (questions,) if isinstance(questions, str) else questions:
            self.questions.append((question, reply))

    def open(self) -> None:
        """Introduce the hero."""
        h, rng = self.hero, self.rng
        who = f"{article(self.trait)} {h.kind} named {h.name}"
        once = "Once upon a time" if rng.random() < 0.85 else rng.choice(("One day", "Long ago", "A long time ago"))
        home = self.at(self.home)
        if once == "One day" or rng.random() < 0.3:
            self.say(f"{once}, there was {who}.", f"{once} there was {who}.")
        else:
            self.say(f"{once}, {who} lived {home}.", f"{once}, there was {who} who lived {home}.",
                     f"{once} there was {who}. {h.they.capitalize()} lived {home}.")  # fmt: skip
            self.ask((f"Where did {h.name} live?",), f"{h.name} lived {home}.")
        self.ask(("Who is the story about?", "Who is this story about?"), f"The story is about {who}.")
        self.ask(f"What was {h.name} like?", f"{h.name} was {self.trait}.")
        if h.kind in ("girl", "boy"):
            self.ask(f"Was {h.name} a girl or a boy?", f"{h.name} was a {h.kind}.")
        else:
            if h.kind not in BEINGS:
                self.ask(f"What kind of animal was {h.name}?", f"{h.name} was {article(h.kind)}.")
            self.ask(f"What was {h.name}?", f"{h.name} was {article(h.kind)}.")
        self.subjects += [
            article(h.kind), f"{article(h.kind)} named {h.name}", f"{article(self.trait)} {h.kind}", h.name,
            f"{article(self.trait)} {h.kind} named {h.name}", f"{article(h.kind)} called {h.name}",
            f"{h.name} the {h.kind}",
        ]  # fmt: skip

    def meet_friend(self) -> None:
        """Introduce the friend as one the hero already has."""
        h, f = self.hero, self.friend
        self.say(f"{h.whose} best friend was {article(f.kind)} named {f.name}.",
                 f"{h.their.capitalize()} best friend was {article(f.kind)} named {f.name}.",
                 f"{h.name} had a good friend, {article(f.kind)} named {f.name}.")  # fmt: skip
        self.knows_friend()

    def knows_friend(self) -> None:
        """Facts about the friend, however they were introduced."""
        h, f = self.hero, self.friend
        self.ask((f"Who was {h.whose} friend?", f"What was the name of {h.whose} friend?"),
                 f"{h.whose} friend was {f.name}.")  # fmt: skip
        self.ask(f"Who was {f.name}?", f"{f.name} was {article(f.kind)}, a friend of {h.name}.")
        self.subjects += [f"{article(h.kind)} and {article(f.kind)}", f"{h.name} and {f.name}",
                          f"{article(h.kind)} named {h.name} and {article(f.kind)} named {f.name}"]  # fmt: skip

    def own_thing(self) -> None:
        """Give the hero the colored thing."""
        h = self.hero
        what = f"{article(self.color)} {self.thing}"
        self.say(f"{h.name} had {what}.", f"{h.name} had {what} and loved it very much.",
                 f"{h.name} loved {h.their} {self.color} {self.thing} more than anything.",
                 f"{h.whose} favorite thing was {what}.")  # fmt: skip
        self.thing_facts()

    def thing_facts(self) -> None:
        """Facts about the hero's thing."""
        h = self.hero
        self.ask((f"What color was {h.whose} {self.thing}?", f"What color was the {self.thing}?"),
                 f"The {self.thing} was {self.color}.")  # fmt: skip
        self.ask(f"Was the {self.thing} {self.color}?", f"Yes, the {self.thing} was {self.color}.")
        other = self.rng.choice([c for c in COLORS if c != self.color])
        self.ask(f"Was the {self.thing} {other}?", f"No, the {self.thing} was {self.color}.")
        self.subjects += [article(self.thing), f"{article(self.color)} {self.thing}",
                          f"{article(h.kind)} and {article(self.color)} {self.thing}",
                          f"{article(h.kind)} named {h.name} and {article(self.thing)}"]  # fmt: skip

    def close(self, *morals: str) -> None:
        """A last sentence."""
        self.say(*morals)
        if self.rng.random() < 0.25:
            self.sentences.append("The end.")

    def story(self) -> Story:
        """What was told."""
        paragraphs = self.rng.random() < 0.4
        parts = [s for s in self.sentences if paragraphs or s != "\n\n"]
        text = " ".join(parts).replace(" \n\n ", "\n\n")
        facts = tuple(Exchange(STORY_QA, q, a, self.key) for q, a in self.questions)
        return Story(text, facts, self.key, tuple(self.subjects))


def tell(rng: Random, split: Split = "train") -> Story:
    """A story of `split`; same generator state, same story."""
    from .plots import PLOTS

    while True:
        plot = rng.choice(list(PLOTS))
        teller = Teller(rng, plot)
        if in_split(teller.key, split):
            teller.open()
            PLOTS[plot](teller)
            return teller.story()


def feeling_why(t: Teller, who: Character, feeling: str, reason: str) -> None:
    """The question why somebody felt something."""
    t.ask((f"Why was {who.name} {feeling}?",), f"{who.name} was {feeling} because {reason}.")
