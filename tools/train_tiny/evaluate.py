"""Measures a checkpoint on held-out problems: exact match of greedy replies, loss, and what its stories are like.

    PYTHONPATH=tools python -m train_tiny.evaluate src/eventide/models/bundled/eventide-tiny --count 100

A task counts a reply as right only if it equals the generator's reply to the last character. Tasks whose problems are
keyed are asked held-out problems alone; tables (facts, multiplication) are recall of what was trained on, and say so.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from . import numbers, talk
from .corpus import END_OF_TEXT, TURN_END, documents, introduction, prompt, render, story_reading
from .items import Exchange, Split, in_split
from .stories import STORY_QA
from .words import ANIMALS, any_name, article

Problem = tuple[str, str]
"""A prompt (special tokens included) and the reply that is right."""

HELD_OUT: dict[str, Callable[[Random], Exchange]] = {
    "sum": numbers.add, "sum of 3 digits": numbers.add_large, "sum of three": numbers.add_three,
    "difference": numbers.subtract, "difference of 3 digits": numbers.subtract_large,
    "word problem": numbers.word_problem, "comparison": numbers.compare,
    "largest of a list": numbers.extreme, "sorting": numbers.sort, "reversing": numbers.reverse,
    "counting": numbers.count, "next number": numbers.neighbour, "even or odd": numbers.parity,
    "counting a list": numbers.tally, "facts in a text": talk.places, "repeating": talk.repeat,
}  # fmt: skip
RECALL: dict[str, Callable[[Random], Exchange]] = {
    "multiplication table": numbers.multiply, "division table": numbers.divide,
    "general facts": talk.knowledge, "spelling": talk.spell,
}  # fmt: skip
MAX_NEW_TOKENS = 64
STORY_TOKENS = 320


def problems(task: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` distinct problems of a task, held out where the task has keys (fewer if there are fewer)."""
    rng = Random(f"evaluate:{task}:{seed}")
    found: dict[str, str] = {}
    for _ in range(count * 400):
        if len(found) == count:
            break
        if task == STORY_QA:
            turns, _story = story_reading(rng, "heldout")
            found[prompt(turns[0])] = turns[1][1]
        elif task == "recalling a name":
            turns = introduction(rng, "heldout")
            found[prompt(*turns[:-1])] = turns[-1][1]
        elif task == "sum of 1 digit":
            a, b = divmod(rng.randrange(100), 10)
            found[prompt(("user", f"What is {a} + {b}?"))] = f"{a} + {b} = {a + b}."
        else:
            item = (HELD_OUT | RECALL)[task](rng)
            if item.key is None if task in RECALL else in_split(item.key, "heldout"):
                found[prompt(("user", item.user))] = item.reply
    return list(found.items())


class Answerer:
    """A checkpoint, its tokenizer, and batched generation with them."""

    def __init__(self, folder: Path, device: str) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        self.model = Qwen3ForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()

    @torch.inference_mode()
    def reply(self, prompts: list[str], max_new_tokens: int, temperature: float = 0.0, batch: int = 512) -> list[str]:
        """The text after each prompt up to its end token; text that never ended carries a final `…`."""
        replies = [""] * len(prompts)
        # prompts of like length together, so that little of a batch is padding
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {
            "do_sample": False, "temperature": None, "top_p": None, "top_k": None,
        }  # fmt: skip
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            inputs = self.tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True).to(
                self.model.device
            )
            out = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max_new_tokens,
                **sampling,
            )
            texts = self.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=False)
            for i, text in zip(chosen, texts):
                ended = re.split(re.escape(TURN_END) + "|" + re.escape(END_OF_TEXT), text, maxsplit=1)
                replies[i] = ended[0] if len(ended) == 2 else text + "…"
        return replies

    @torch.inference_mode()
    def loss(self, count: int, split: Split) -> float:
        """Mean negative log likelihood of a token of `count` documents that were not trained on, in nats."""
        total, tokens = 0.0, 0
        texts = sorted((render(d) for d in islice(documents("loss", split), count)), key=len)
        for first in range(0, count, 64):
            inputs = self.tokenizer(texts[first : first + 64], return_tensors="pt", padding=True, padding_side="right")
            ids, mask = inputs["input_ids"].to(self.model.device), inputs["attention_mask"].to(self.model.device)
            logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
            targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
            total += torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="sum"
            ).item()
            tokens += int((targets != -100).sum())
        return total / tokens


def names_of(story: str) -> tuple[set[str], set[str]]:
    """The names a story introduces, and the capitalised words it uses inside sentences."""
    introduced = set(re.findall(r"(?:named|friend|it|am|is|called) ([A-Z][a-z]+)", story))
    used = set(re.findall(r"(?<=[a-z,] )([A-Z][a-z]+)", story)) - {"I"}
    return introduced, used


def stories(answerer: Answerer, count: int) -> dict[str, float]:
    """What stories are like: continued from the usual opening at temperature 0.8, and asked for by kind and name."""
    told = answerer.reply(["Once upon a time"] * count, STORY_TOKENS, temperature=0.8)
    ended = [t for t in told if not t.endswith("…")]
    consistent = 0
    for text in ended:
        introduced, used = names_of(text)
        consistent += bool(introduced) and used <= introduced
    rng = Random("requests")
    asked = [(rng.choice(ANIMALS), any_name(rng, rng.random() < 0.5)) for _ in range(count)]
    replies = answerer.reply(
        [prompt(("user", f"Tell me a story about {article(kind)} named {name}.")) for kind, name in asked], STORY_TOKENS
    )
    obeyed = sum(
        f"{kind} named {name}" in reply and reply.count(name) > 2 for (kind, name), reply in zip(asked, replies)
    )
    return {
        "ended": len(ended) / count, "consistent_names": consistent / max(1, len(ended)),
        "distinct": len(set(told)) / count, "request_obeyed": obeyed / count, "count": count,
    }  # fmt: skip


def accuracy(answerer: Answerer, task: str, count: int, seed: int = 0) -> dict[str, Any]:
    """Exact match of greedy replies over `count` problems, with up to four mistakes to look at."""
    posed = problems(task, count, seed)
    given = answerer.reply([p for p, _ in posed], MAX_NEW_TOKENS)
    wrong = [(p, right, got) for (p, right), got in zip(posed, given) if right != got]
    return {
        "accuracy": 1 - len(wrong) / len(posed), "count": len(posed),
        "held_out": task not in RECALL and task != "sum of 1 digit",
        "mistakes": [{"prompt": p[-160:], "right": right, "got": got} for p, right, got in wrong[:4]],
    }  # fmt: skip


TASKS = (*HELD_OUT, STORY_QA, "recalling a name", "sum of 1 digit", *RECALL)


def evaluate(folder: Path, count: int, device: str, seed: int = 0) -> dict[str, Any]:
    """All measures of a checkpoint."""
    torch.manual_seed(seed)
    answerer = Answerer(folder, device)
    # new documents of problems that are trained on, and documents of held-out problems alone: other mixtures of text
    losses = {split: answerer.loss(count, split) for split in ("train", "heldout")}
    print(f"loss {losses['train']:.4f}, on held-out problems {losses['heldout']:.4f} nats a token", flush=True)
    tasks = {}
    for task in TASKS:
        tasks[task] = accuracy(answerer, task, count, seed)
        print(f"{task}: {tasks[task]['accuracy']:.3f} of {tasks[task]['count']}", flush=True)
    told = stories(answerer, min(count, 200))
    print(told, flush=True)
    return {"loss": losses, "documents": count, "tasks": tasks, "stories": told}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on held-out problems.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=100, help="problems of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    args = parser.parse_args()
    metrics = evaluate(args.checkpoint, args.count, args.device, args.seed)
    if args.out:
        args.out.write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    main()
