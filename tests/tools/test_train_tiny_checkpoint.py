"""The committed checkpoint: small enough, read by transformers, and as good as its card says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from train_tiny.card import METRICS, card
from train_tiny.corpus import SPECIAL_TOKENS, documents, prompt, render

pytestmark = pytest.mark.untraced  # looks at no line of src/ that other tests don't

BUNDLED = Path(__file__).resolve().parents[2] / "src/eventide/models/bundled/eventide-tiny"
MOST_BYTES = 8_000_000


def test_at_most_eight_megabytes() -> None:
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) <= MOST_BYTES


def test_card_is_written_from_the_metrics() -> None:
    assert (BUNDLED / "README.md").read_text() == card(json.loads(METRICS.read_text()))


def test_digits_are_single_tokens() -> None:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    assert tokenizer.encode("1234567890").tokens == list("1234567890")
    assert not [t for t in tokenizer.get_vocab() if sum(c in "0123456789" for c in t) and len(t) > 1]


def test_tokenizer_gives_back_any_text() -> None:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    for text in ("Zaphod ate 42 kiwis.\n\n  Two  spaces\tand a tab", "über 東京 🦊", "a<b>c {json: [1, 2]}"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_are_one_token_each() -> None:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    for token in SPECIAL_TOKENS:
        assert len(tokenizer.encode(token).ids) == 1


transformers = pytest.importorskip("transformers", reason="transformers is a test dependency")
pytest.importorskip("torch", reason="torch is a test dependency")


def test_chat_template_renders_as_the_training_text() -> None:
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(BUNDLED)
    chats = [doc for doc, _ in zip(documents(9), range(60), strict=False) if doc.turns]
    assert len(chats) > 20
    for doc in chats:
        messages = [{"role": role, "content": content} for role, content in doc.turns]
        assert tokenizer.apply_chat_template(messages, tokenize=False) + SPECIAL_TOKENS[0] == render(doc)
        asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        assert asked == prompt(doc.turns[0])


@pytest.fixture(scope="module")
def answerer():  # type: ignore[no-untyped-def]
    from train_tiny.evaluate import Answerer

    return Answerer(BUNDLED, "cpu")


def test_answers_sums(answerer) -> None:  # type: ignore[no-untyped-def]
    asked = [(2, 3), (7, 8), (27, 58), (99, 99), (348, 275)]
    replies = answerer.reply([prompt(("user", f"What is {a} + {b}?")) for a, b in asked], 16)
    assert replies == [f"{a} + {b} = {a + b}." for a, b in asked]


def test_tells_a_story_about_whom_it_is_asked(answerer) -> None:  # type: ignore[no-untyped-def]
    (story,) = answerer.reply([prompt(("user", "Tell me a story about a fox named Mia."))], 320)
    assert "fox named Mia" in story and not story.endswith("…")


@pytest.mark.parametrize("task", ["sum", "difference", "word problem", "sorting", "story questions", "facts in a text"])
def test_reaches_the_accuracy_of_the_card(answerer, task: str) -> None:  # type: ignore[no-untyped-def]
    from train_tiny.evaluate import accuracy

    stated = json.loads(METRICS.read_text())["tasks"][task]
    count = 25
    # other problems than the card's; three standard deviations of a sample of this size, and one problem more
    measured = accuracy(answerer, task, count, seed=1)
    spread = 3 * (stated["accuracy"] * (1 - stated["accuracy"]) / count) ** 0.5 + 1 / count
    assert measured["held_out"] and measured["count"] == count
    assert measured["accuracy"] >= stated["accuracy"] - spread, measured["mistakes"]


def test_reaches_the_loss_of_the_card(answerer) -> None:  # type: ignore[no-untyped-def]
    stated = json.loads(METRICS.read_text())["loss"]["heldout"]
    assert answerer.loss(48, "heldout") == pytest.approx(stated, abs=0.06)
