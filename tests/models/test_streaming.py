"""Streaming gives the same text as decoding at once, and as early as it can; stop strings across pieces."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders

from eventide.errors import SamplingError
from eventide.models.streaming import StopStrings
from eventide.models.tokenizer import Tokenizer
from tests.tiny_tokenizers import CORPUS, make_metaspace_tokenizer, make_tokenizer

EMOJI = "\U0001f600 and \U0001f468\u200d\U0001f469\u200d\U0001f467, \u4f60\u597d, \ufffd, \u00e9"


@pytest.fixture(scope="module", params=[make_tokenizer, make_metaspace_tokenizer], ids=["byte level", "metaspace"])
def tokenizer(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    make: Callable[[Path], Path] = request.param
    loaded = Tokenizer.load(make(tmp_path_factory.mktemp("tokenizer")), 400)
    assert loaded is not None
    return loaded


def stream(tokenizer: Tokenizer, ids: list[int], size: int = 1) -> list[str]:
    decoder = tokenizer.stream()
    return [*(decoder.push(ids[start : start + size]) for start in range(0, len(ids), size)), decoder.finish()]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("text", [*CORPUS[:4], EMOJI, " two  spaces", "\n\n", EMOJI * 30])
def test_joined_pieces_are_the_text(tokenizer: Tokenizer, text: str, size: int) -> None:
    ids = tokenizer.encode(text)
    assert "".join(stream(tokenizer, ids, size)) == tokenizer.decode(ids) == text


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@given(text=st.text(max_size=40), size=st.integers(1, 5))
@settings(deadline=None, max_examples=200)
def test_any_text(tokenizer: Tokenizer, text: str, size: int) -> None:
    ids = tokenizer.encode(text)
    assert "".join(stream(tokenizer, ids, size)) == tokenizer.decode(ids)


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@given(ids=st.lists(st.integers(0, 399), max_size=60))
@settings(deadline=None, max_examples=200)
def test_any_tokens(tokenizer: Tokenizer, ids: list[int]) -> None:
    if not isinstance(tokenizer.inner.decoder, decoders.ByteLevel):
        # a byte-fallback decoder turns a whole run of bytes into � if one is broken; see the next test
        ids = [token_id for token_id in ids if not tokenizer.inner.id_to_token(token_id).startswith("<0x")]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_text_beside_broken_bytes(tmp_path: Path) -> None:
    make_metaspace_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path, 400)
    assert tokenizer is not None
    words, broken = tokenizer.encode("One and two"), tokenizer.inner.token_to_id("<0xF0>")
    for count in (1, 5, 60):
        text = "".join(stream(tokenizer, [*words, *[broken] * count, *words]))
        assert text == "One and two" + "\ufffd" * count + " One and two"


def test_a_character_is_shown_with_its_last_byte(tokenizer: Tokenizer) -> None:
    before, smile = tokenizer.encode("and"), tokenizer.encode("and\U0001f600")
    assert smile[: len(before)] == before and len(smile) > len(before) + 1
    pieces = stream(tokenizer, smile)
    assert pieces[-2:] == ["\U0001f600", ""]
    assert all(piece == "" for piece in pieces[len(before) : -2])


def test_plain_text_is_never_held_back(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.stream()
    ids = tokenizer.encode("The quick brown fox")
    shown = ""
    for end, token_id in enumerate(ids, 1):
        shown += decoder.push([token_id])
        assert shown == tokenizer.decode(ids[:end])


def test_an_unfinished_character_ends_as_a_replacement(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("and\U0001f600")[:-1]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)
    assert tokenizer.decode(ids).startswith("and\ufffd")


def test_broken_bytes_do_not_stop_the_stream(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path, 400)
    assert tokenizer is not None
    first_byte = tokenizer.encode("\U0001f600")[0]
    ids = [first_byte] * 100 + tokenizer.encode("\U0001f600 end")
    decoder = tokenizer.stream()
    pieces = [decoder.push([token_id]) for token_id in ids]
    assert "".join(pieces[:50]) != ""
    assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)


def test_special_tokens_and_a_long_run_of_them(tokenizer: Tokenizer) -> None:
    words = tokenizer.encode("One and two")
    end = tokenizer.encode("</s>", add_special_tokens=False)[-1]
    ids = [*words, *[end] * 40, *words]
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)
    decoder = tokenizer.stream(skip_special_tokens=False)
    assert decoder.push([end]) == "</s>"


def test_two_streams_do_not_meet(tokenizer: Tokenizer) -> None:
    one, two = tokenizer.stream(), tokenizer.stream()
    ids = tokenizer.encode("The quick brown fox")
    assert [one.push([token_id]) for token_id in ids] == [two.push([token_id]) for token_id in ids]


def run(stop: Any, pieces: list[str]) -> tuple[str, str | None]:
    stops, text = StopStrings(stop), ""
    for piece in pieces:
        certain, stopped = stops.push(piece)
        text += certain
        if stopped:
            return text, stops.matched
    return text + stops.finish(), stops.matched


STOPS: list[tuple[Any, list[str], str, str | None]] = [
    (None, ["a", "b"], "ab", None),
    ("END", ["The E", "ND of it"], "The ", "END"),
    ("END", ["The E", "NOT"], "The ENOT", None),
    ("END", ["The EN"], "The EN", None),
    (["\n\n", "END"], ["a\n", "\nEND"], "a", "\n\n"),
    (["b", "abc"], ["ab"], "a", "b"),
    (["bc", "abcd"], ["a", "b", "c", "d"], "a", "bc"),
    ("aab", ["a", "a", "a", "b", "c"], "a", "aab"),
    ("x", ["x"], "", "x"),
    ("é", ["caf", "é!"], "caf", "é"),
]


@pytest.mark.parametrize(("stop", "pieces", "text", "matched"), STOPS)
def test_stop_strings(stop: Any, pieces: list[str], text: str, matched: str | None) -> None:
    assert run(stop, pieces) == (text, matched)


def test_held_back_no_longer_than_needed() -> None:
    stops = StopStrings("END")
    assert stops.push("The E") == ("The ", False)
    assert stops.push("E") == ("E", False)
    assert stops.push("x") == ("Ex", False)
    assert stops.push("END") == ("", True)
    assert stops.push("more") == ("", True)
    assert stops.finish() == ""


@pytest.mark.untraced  # repeats itself: counting lines would take longer than the test
@given(
    text=st.text("abc", max_size=30),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=10),
)
def test_any_pieces(text: str, stop: list[str], cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(places)]
    shown, matched = run(stop, pieces)
    # whichever stop string is complete first, piece by piece, ends the text
    if matched is None:
        assert shown == text and not any(string in text for string in stop)
    else:
        assert text.startswith(shown + matched)
        assert not any(string in shown for string in stop)


@pytest.mark.parametrize("stop", ["", ["a", ""], [5]])
def test_bad_stop_strings(stop: Any) -> None:
    with pytest.raises(SamplingError, match="stop must be non-empty strings"):
        StopStrings(stop)
