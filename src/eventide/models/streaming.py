r"""Text as tokens come, and the strings at which to stop.

    stream = tokenizer.stream()
    stream.push([9707])              "Hello"
    stream.push([240])               ""           the first byte of "😀": nothing can be shown yet
    stream.push([253, 235, 224])     "😀"
    stream.finish()                  ""           or what was held back, with � for a character that never became whole

    stops = StopStrings(["\n\n", "END"])
    stops.push("The E")              ("The ", False)        "E" may begin "END"
    stops.push("ND of it")           ("", True)             stopped; "END" and what follows are dropped
    stops.finish()                   ""                     or what was held back, if no stop string came

What `push` and `finish` return, joined, is what decoding all the tokens at once gives (of bytes that are no text, such
decoders as turn a whole run of them into � may show more).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eventide.errors import SamplingError

__all__ = ["Detokenizer", "StopStrings"]

_REPLACEMENT = "\ufffd"
_MAX_PENDING = 12  # tokens; a character has four bytes, so beyond that the bytes are broken, not incomplete


class Detokenizer:
    """Decodes one sequence piece by piece.

    Decoding a token alone is wrong where decoders look at the neighbours: a leading space is stripped from the first
    token, a character's bytes may be spread over tokens. So a window is decoded that starts at the tokens shown last,
    once without the new tokens and once with them, and the difference is shown. (The method is that of Hugging Face's
    text-generation-inference.) A piece that ends inside a character waits for the rest.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        """`decode` gives the text of a sequence of ids."""
        self._decode = decode
        self._window: list[int] = []
        self._num_shown = 0  # tokens at the window's start whose text has been returned

    def push(self, token_ids: Sequence[int]) -> str:
        """Add tokens; return the text that is certain now."""
        self._window.extend(token_ids)
        last = len(self._window)
        # an unfinished character has at most three tokens, so a cut before one of them shows everything else
        for end in range(last, max(self._num_shown, last - 4), -1):
            piece = self._difference(end)
            if not piece.endswith(_REPLACEMENT):
                return self._show(end, piece)
        if last - self._num_shown > _MAX_PENDING:
            # broken bytes, not unfinished ones: had a character begun before the last three, it would be whole by now
            return self._show(last - 3, self._difference(last - 3))
        return ""

    def finish(self) -> str:
        """The text held back so far, at the end of the sequence."""
        end = len(self._window)
        return self._show(end, self._difference(end)) if end > self._num_shown else ""

    def _difference(self, end: int) -> str:
        before = self._decode(self._window[: self._num_shown])
        return self._decode(self._window[:end])[len(before) :]

    def _show(self, end: int, piece: str) -> str:
        if piece:
            del self._window[: self._num_shown]
            self._num_shown = end - self._num_shown
        elif end - self._num_shown > _MAX_PENDING:
            # a run of tokens without text (special ones): as context they would stand for a beginning, so they go
            del self._window[self._num_shown : end]
        return piece


class StopStrings:
    """Finds the first of some strings in a text that comes in pieces, and holds back what may be the start of one."""

    def __init__(self, stop: str | Sequence[str] | None) -> None:
        """`stop` is one string or some; raises `SamplingError` for an empty one or for something that isn't text."""
        strings = [stop] if isinstance(stop, str) else list(stop or ())
        for string in strings:
            if not isinstance(string, str) or not string:
                raise SamplingError(f"stop must be non-empty strings, got {string!r}")
        self._stops = tuple(strings)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """Add a piece; return (text that is certain now, whether a stop string was met). After a stop nothing
        follows."""
        if self.matched is not None:
            return "", True
        self._held += text
        found = min(((self._held.find(stop), stop) for stop in self._stops if stop in self._held), default=None)
        if found is not None:
            position, self.matched = found
            certain, self._held = self._held[:position], ""
            return certain, True
        keep = self._possible_start()
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain, False

    def finish(self) -> str:
        """The text held back, at the end of the sequence."""
        held, self._held = self._held, ""
        return held

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if self._held.endswith(tuple(stop[:length] for stop in self._stops if len(stop) > length)):
                return length
        return 0
