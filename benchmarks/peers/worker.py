"""The loop of every contender: one JSON request a line, one JSON answer a line. Standard library alone.

    {"kind": "decode", "batch": 8, "tokens": 32}     → {"tokens_per_s": 71.2}
    {"kind": "prefill", "batch": 1, "tokens": 512}   → {"tokens_per_s": 468.0}
    {"kind": "logits"}                               → {"logits": [...]}, the first 512 after PROMPT's last token
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

PROMPT_LEN = 16  # tokens before a decode
NUM_LOGITS = 512


# of the prompts of a batch of mixed lengths
MIXED = (16, 64, 128, 200, 320, 448, 640, 900)


def prompt(index: int, length: int) -> list[int]:
    """Token ids below 4,096, spread, another row for each sequence of a batch."""
    return [(index * 977 + i * 61 + 7) % 4096 for i in range(length)]


def options() -> dict[str, Any]:
    return json.loads(sys.argv[1])


def serve(facts: dict[str, Any], handlers: dict[str, Callable[..., dict[str, Any]]]) -> None:
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(handlers[request.pop("kind")](**request)), flush=True)
