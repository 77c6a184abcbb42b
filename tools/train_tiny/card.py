# ruff: noqa: E501 (rows of Markdown tables cannot be wrapped)
"""Writes the model card from `metrics.json`, so that no number in it is typed by hand.

    PYTHONPATH=tools python -m train_tiny.card --metrics build/eventide-tiny/metrics.json \
        --out src/eventide/models/bundled/eventide-tiny/README.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

METRICS = Path(__file__).with_name("metrics.json")

_CARD = """\
---
license: apache-2.0
language: en
---
# eventide-tiny

A Qwen3-architecture language model of {parameters:,} parameters (bf16, tied embeddings), which comes with Eventide so that
there is something to run at once. It tells little stories, answers questions about them and about facts it is told, works
with small whole numbers, knows some tables of general facts, and says so when it doesn't know. English only; it knows
nothing beyond what its generator writes, and is no use for anything but trying things out.

| | |
| --- | --- |
| architecture | Qwen3: hidden 256, 6 layers, 8 query and 2 key/value heads of 32, feed-forward 512, q/k norm, RoPE base 10,000 |
| vocabulary | 2,048: byte-level BPE, each digit a token; `<|endoftext|>`, `<|im_start|>`, `<|im_end|>` |
| context | 1,024 positions; trained on rows of 512 tokens |
| licence | Apache-2.0, like the project; the text it was trained on is the project's own |

## Try

Chats take the template in `tokenizer_config.json` (as Qwen's: `<|im_start|>user` …); stories also continue plain text.

| prompt | reply |
| --- | --- |
| `Once upon a time` (plain text) | a story, then the end token |
| Tell me a story about a princess who is afraid of spiders. | a story about that |
| *(then)* What was the princess afraid of? Where did she go? | answers from the story |
| What is 348 + 275? · Sort these numbers: 42, 7, 19, 88, 3. | 348 + 275 = 623. · 3, 7, 19, 42, 88. |
| Anna has 12 apples. She gives 5 to Tom. How many apples does she have now? | 12 - 5 = 7. Anna has 7 apples now. |
| How many legs does a spider have? · What is the capital of France? | A spider has 8 legs. · The capital of France is Paris. |

## Data

A seeded generator (`tools/train_tiny/`, Apache-2.0) wrote all of it: stories from fourteen plots over a lexicon of some
names, beings, places and things (a third of the names are put together from syllables), questions about the facts each
story states, and exchanges about numbers, tables of facts and small talk, in many wordings. No text from elsewhere.

One problem in twenty is held out by a hash of its key, and is never generated for training in any wording: a pair of
operands (in either order), a list to sort, a set of statements, a combination of a story's plot, hero and place. Sums and
differences of two single digits, tables and small talk are always trained on.

## Training

{tokens:.2f} billion tokens ({steps:,} steps of 128 rows of 512; no row of text twice) in {seconds:.0f} seconds on one {device}.
AdamW, peak rate 4e-3, held and then brought linearly to zero, fp32 weights with bf16 products.

```
PYTHONPATH=tools python -m train_tiny.train_tokenizer --out build/eventide-tiny
PYTHONPATH=tools python -m train_tiny.train --tokenizer build/eventide-tiny --out build/eventide-tiny --minutes 3.4
PYTHONPATH=tools python -m train_tiny.evaluate src/eventide/models/bundled/eventide-tiny --count 500
```

The schedule follows the clock, so another machine gives other weights; the text and the problems are the same everywhere.

## Results

Loss, nats a token: **{heldout:.3f}** on {documents} documents of held-out problems alone, {train:.3f} on {documents} new documents of the
training mixture (the two mix
differently: held-out text has none of the tables). Most of it is chance: nobody can know which name comes next.

Accuracy of greedy replies, exact match to the last character:

| task | problems | accuracy | |
| --- | --- | --- | --- |
{table}

Of {stories} continuations of `Once upon a time` at temperature 0.8, {ended:.1%} come to an end, {consistent:.1%} of those use no
name that they haven't introduced, and {distinct:.1%} are distinct. Asked {stories} times for a story about a kind of animal with a
given name, {obeyed:.1%} of the stories are about it.

Mistakes, as they were found:

{mistakes}

## Limits

Statements about several people ("facts in a text") are its weakest task. Names that are built unlike its lexicon's may be
misspelt half-way through a story. Numbers from 1,000 on are declined. Words it doesn't know are often answered with "I do
not know that", and sometimes with a story.
"""


def card(metrics: dict[str, Any]) -> str:
    """The card's text."""
    training, told = metrics["training"], metrics["stories"]
    lines, mistakes = [], []
    for task, row in metrics["tasks"].items():
        kind = "held out" if row["held_out"] else "recall of what was trained on"
        lines.append(f"| {task} | {row['count']} | {row['accuracy']:.1%} | {kind} |")
        for found in row["mistakes"][:2]:
            asked = found["prompt"].split("<|im_end|>")[0].split("user\n")[-1].replace("\n", " ")
            mistakes.append(f"- {task}: …{asked[-90:]} → {found['got']} (right: {found['right']})")
    return _CARD.format(
        parameters=training["parameters"], tokens=training["tokens"] / 1e9, steps=training["steps"],
        seconds=training["seconds"], device=training["device"], heldout=metrics["loss"]["heldout"],
        train=metrics["loss"]["train"], documents=metrics["documents"], table="\n".join(lines),
        stories=told["count"], ended=told["ended"], consistent=told["consistent_names"], distinct=told["distinct"],
        obeyed=told["request_obeyed"], mistakes="\n".join(mistakes),
    )  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the model card of the bundled model.")
    parser.add_argument("--metrics", type=Path, default=METRICS)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.write_text(card(json.loads(args.metrics.read_text())))


if __name__ == "__main__":
    main()
