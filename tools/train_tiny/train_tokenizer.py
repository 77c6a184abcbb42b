"""Trains the byte-level BPE of the bundled model on the generated corpus, and writes the two tokenizer files.

    PYTHONPATH=tools python -m train_tiny.train_tokenizer --out src/eventide/models/bundled/eventide-tiny

Each digit is a token of its own, so that a number is its digits and a sum can be worked out. Words of the lexicon
become single tokens; anything else falls back to pieces and at last to bytes, so no input is unknown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from .corpus import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS, TURN_END, documents

VOCAB_SIZE = 2048
MAX_LENGTH = 1024
# words with at most one leading space or mark; digits one by one; runs of punctuation; line ends; spaces
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus_text(seed: int, count: int) -> Iterator[str]:
    """Document texts without special tokens."""
    for doc in islice(documents(seed), count):
        if doc.text is not None:
            yield doc.text
        else:
            yield from (f"{role}\n{content}\n" for role, content in doc.turns)


def train_tokenizer(seed: int, count: int) -> Tokenizer:
    """A byte-level BPE of VOCAB_SIZE entries, the special tokens last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus_text(seed, count), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return tokenizer


def write(tokenizer: Tokenizer, out: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(t)): {
                "content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                "special": True,
            }
            for t in SPECIAL_TOKENS
        },
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "model_max_length": MAX_LENGTH,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }  # fmt: skip
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the tokenizer of the bundled model.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--documents", type=int, default=60_000)
    args = parser.parse_args()
    tokenizer = train_tokenizer(args.seed, args.documents)
    write(tokenizer, args.out)
    texts = list(corpus_text(args.seed + 1, 500))
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(texts))
    print(f"{tokenizer.get_vocab_size()} entries, {sum(map(len, texts)) / tokens:.2f} characters a token")


if __name__ == "__main__":
    main()
