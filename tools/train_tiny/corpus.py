"""Documents: stories as plain text, and chats of one to five exchanges, rendered exactly as the chat template does.

    python -m train_tiny.corpus --seed 0 --documents 3        (prints three documents)

A generator seed gives the same documents on every machine. `documents(seed, "train")` never yields a held-out problem
in any of its turns; `documents(seed, "heldout")` yields documents all of whose keyed problems are held out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from random import Random

from .items import Document, Exchange, Split, Story, in_split
from .numbers import NUMBER_TASKS, add, multiply, subtract
from .stories import tell
from .talk import TALK_TASKS
from .words import any_name

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

# the same rendering as `render` below, for `tokenizer_config.json`
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

SYSTEM_MESSAGES = (
    "You are a helpful assistant.", "You are Eventide Tiny, a very small language model.",
    "You tell stories to children.", "Answer briefly.", "You are a friendly teacher.",
)  # fmt: skip

_STORY_REQUESTS = (
    "Tell me a story.", "Tell me a short story.", "Can you tell me a story?", "Write a story.",
    "I want to hear a story.", "Tell me a story", "tell me a story", "Another story, please.", "Once upon a time",
)  # fmt: skip
_STORY_ABOUT = (
    "Tell me a story about {}.", "Tell me a story about {}.", "Write a story about {}.",
    "Write a short story about {}.", "Can you tell me a story about {}?", "I want to hear a story about {}.",
    "tell me a story about {}", "Please tell me a short story about {}.", "A story about {}, please.",
)  # fmt: skip


def exchange(rng: Random, tasks: dict[Callable[[Random], Exchange], float], split: Split) -> Exchange:
    """One exchange of `split` from a weighted table of generators; what has no key is only met in training."""
    makers, weights = list(tasks), list(tasks.values())
    while True:
        item = rng.choices(makers, weights)[0](rng)
        if in_split(item.key, split):
            return item


def loosely(rng: Random, message: str) -> str:
    """A short message now and then without its capital or its final mark, as people type."""
    # after a full stop or a line end, a first word may be a name that a reply repeats
    if len(message) < 80 and ". " not in message and "\n" not in message:
        if rng.random() < 0.12:
            message = message[0].lower() + message[1:]
        if rng.random() < 0.12 and len(message) > 1:
            message = message.rstrip(".?!")
    return message


def story_chat(rng: Random, split: Split) -> tuple[list[tuple[str, str]], Story]:
    """A request for a story, the story, and questions about it."""
    story = tell(rng, split)
    about = rng.random() < 0.75
    ask = rng.choice(_STORY_ABOUT).format(rng.choice(story.subjects)) if about else rng.choice(_STORY_REQUESTS)
    turns = [("user", loosely(rng, ask)), ("assistant", story.text)]
    for fact in rng.sample(story.facts, min(len(story.facts), rng.choice((0, 1, 2, 3)))):
        turns += [("user", loosely(rng, fact.user)), ("assistant", fact.reply)]
    return turns, story


def story_reading(rng: Random, split: Split) -> tuple[list[tuple[str, str]], Story]:
    """A story that the user tells, with one question in the same message and some after it."""
    story = tell(rng, split)
    facts = rng.sample(story.facts, min(len(story.facts), rng.choice((1, 1, 2, 3))))
    turns = [("user", f"{story.text}\n\n{facts[0].user}"), ("assistant", facts[0].reply)]
    for fact in facts[1:]:
        turns += [("user", loosely(rng, fact.user)), ("assistant", fact.reply)]
    return turns, story


def introduction(rng: Random, split: Split) -> list[tuple[str, str]]:
    """The user says their name, talks of something else, and asks for the name."""
    name = any_name(rng, rng.random() < 0.5)
    hello = rng.choice(
        (
            f"My name is {name}.",
            f"I am {name}.",
            f"Hello, I am {name}.",
            f"Hi, my name is {name}.",
            f"my name is {name}",
        )
    )
    turns = [("user", hello), ("assistant", f"Nice to meet you, {name}!")]
    for _ in range(rng.randint(0, 2)):
        item = exchange(rng, rng.choice((NUMBER_TASKS, TALK_TASKS)), split)
        turns += [("user", loosely(rng, item.user)), ("assistant", item.reply)]
    asked = rng.choice(("What is my name?", "Do you know my name?", "What's my name?", "Who am I?"))
    return [*turns, ("user", asked), ("assistant", f"Your name is {name}.")]


def plain_lines(rng: Random, split: Split) -> Document:
    """Exchanges without the chat's special tokens, for prompts that are plain text."""
    style = rng.randrange(3)
    only_sums: dict[Callable[[Random], Exchange], float] = {add: 3, subtract: 2, multiply: 1}
    items = [
        exchange(rng, only_sums if style == 2 else rng.choice((NUMBER_TASKS, TALK_TASKS)), split)
        for _ in range(rng.randint(1, 6))
    ]
    form = ("{0.user}\n{0.reply}\n\n", "Question: {0.user}\nAnswer: {0.reply}\n\n", "{0.reply}\n")[style]
    text = "".join(form.format(item) for item in items)
    return Document(text, (), tuple(item.key for item in items if item.key is not None))


def document(rng: Random, split: Split = "train") -> Document:
    """One document of `split`."""
    form = rng.choices(("story", "story chat", "story reading", "numbers", "talk", "mixed", "introduction", "plain"),
                       (0.16, 0.16, 0.2, 0.22, 0.12, 0.06, 0.03, 0.05))[0]  # fmt: skip
    if form == "story":
        story = tell(rng, split)
        return Document(story.text, (), (story.key,))
    if form == "plain":
        return plain_lines(rng, split)
    keys: list[str | None] = []
    turns: list[tuple[str, str]] = []
    if form in ("story chat", "story reading"):
        turns, story = (story_chat if form == "story chat" else story_reading)(rng, split)
        keys.append(story.key)
    elif form == "introduction":
        turns = introduction(rng, split)
    else:
        tables = {"numbers": (NUMBER_TASKS,), "talk": (TALK_TASKS,), "mixed": (NUMBER_TASKS, TALK_TASKS)}[form]
        for _ in range(rng.choice((1, 2, 3, 4, 5, 6, 7))):
            item = exchange(rng, rng.choice(tables), split)
            turns += [("user", loosely(rng, item.user)), ("assistant", item.reply)]
            keys.append(item.key)
    if rng.random() < 0.06:
        turns.insert(0, ("system", rng.choice(SYSTEM_MESSAGES)))
    return Document(None, tuple(turns), tuple(k for k in keys if k is not None))


def render(doc: Document) -> str:
    """The text that the tokenizer sees, special tokens included."""
    if doc.text is not None:
        return doc.text + END_OF_TEXT
    return "".join(f"{TURN_START}{role}\n{content}{TURN_END}\n" for role, content in doc.turns) + END_OF_TEXT


def prompt(*turns: tuple[str, str]) -> str:
    """A chat that waits for the assistant."""
    return "".join(f"{TURN_START}{role}\n{content}{TURN_END}\n" for role, content in turns) + f"{TURN_START}assistant\n"


def documents(seed: int | str, split: Split = "train") -> Iterator[Document]:
    """Endless documents; equal seeds give equal documents."""
    rng = Random(f"{seed}:{split}")
    while True:
        yield document(rng, split)


def main() -> None:
    """Print some documents."""
    parser = argparse.ArgumentParser(description="Print documents of the generated corpus.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--split", choices=("train", "heldout"), default="train")
    args = parser.parse_args()
    for _, doc in zip(range(args.documents), documents(args.seed, args.split)):
        print(render(doc), end="\n\n")


if __name__ == "__main__":
    main()
