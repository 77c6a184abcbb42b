"""`LLM`: a model, loaded and compiled, and what one does with it.

    llm = LLM("eventide-tiny")
    llm.generate("Once upon a time").text
    llm.generate(["One.", "Two."], SamplingParams(max_new_tokens=32, temperature=0))[1].token_ids
    for piece in llm.stream("Once upon a time"): print(piece.text, end="")
    llm.chat([{"role": "user", "content": "Hello!"}]).text
    llm.logits([5, 8, 13])                       float32 [3, vocab_size]
    print(llm.plan)

What a method is given decides what it returns: one prompt, one `Completion`; a list of prompts, a list of them.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .. import dtypes
from ..errors import DeviceError, OutOfMemoryError, PromptError, ResourceError, UsageError
from ..ir.nodes import Plan
from ..models.config import ModelConfig
from ..models.decoder import cache_bytes
from ..models.tokenizer import Tokenizer
from .devices import check_device, check_schedule, choose_device, num_workers, open_runner
from .generation import Generation, bounded
from .limits import CacheSize
from .load import Loaded, Progress, open_model
from .loop import PART_SECONDS, StepLoop
from .outputs import Completion, Piece, TokenLogprob
from .pool import Pool
from .runner import Runner
from .sampling import Resolved, SamplingParams
from .steps import Chunk, make_step

__all__ = ["LLM", "Message", "Prompt"]

Prompt = str | Sequence[int]
Message = Mapping[str, Any]
Params = SamplingParams | Sequence[SamplingParams] | None


class LLM:
    """A language model, ready to generate.

    model: a checkpoint directory, the name of a bundled model, or a Hugging Face hub id (with `eventide[hub]`).
    device: "cpu", "cuda" (a GPU), "interp" (the interpreter, slow) or "auto": the GPU, if there is one that the model can
    run on; where there is one and it can't, a `RuntimeWarning` says why and the CPU is taken.
    schedule: "static", "per_op" or "auto" (static).
    dtype: "float32", "bfloat16" or "auto", the checkpoint's own (float16 becomes float32).
    max_seq_len: tokens of a prompt and its continuation at most; None takes what the model allows, up to 8192, as
    memory permits. num_threads: CPU workers; None takes one for each core, or EVENTIDE_NUM_THREADS.
    load_format: "safetensors", "dummy" (seeded random weights; config.json alone is enough) or "auto" (safetensors).
    max_seqs: sequences that run at once; further prompts wait for a free slot. progress: called with what is being done
    and the share done, from 0 to 1, while weights load.

    Raises `CheckpointError`s for a model that can't be used, `ResourceError`s for want of memory, `UsageError` for an
    argument out of range. One `LLM` serves one thread at a time.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        schedule: str = "auto",
        max_seq_len: int | None = None,
        num_threads: int | None = None,
        load_format: str = "auto",
        max_seqs: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        # what costs nothing to check comes first
        check_device(device)
        self.schedule = check_schedule(schedule)
        num_workers(num_threads)
        if max_seqs is not None and (isinstance(max_seqs, bool) or not 1 <= max_seqs <= 512):
            raise UsageError(f"max_seqs must be an integer from 1 to 512, got {max_seqs!r}")

        def opened(device: str) -> tuple[Loaded, Runner]:
            more: dict[str, Any] = {"max_seq_len": max_seq_len, "load_format": load_format, "max_seqs": max_seqs}
            loaded = open_model(model, dtype=dtype, device=device, **more)
            return loaded, open_runner(loaded, loaded.device, self.schedule, num_threads, progress)

        wanted = choose_device(device, dtype)
        try:
            loaded, self._runner = opened(wanted)
        except (DeviceError, ResourceError) as e:
            if device != "auto" or wanted == "cpu":
                raise
            warnings.warn(f"{model} runs on the CPU, not on the GPU: {e}", RuntimeWarning, stacklevel=2)
            loaded, self._runner = opened("cpu")
        self.device = loaded.device
        self.model = str(model)
        self.config: ModelConfig = loaded.config
        self.tokenizer: Tokenizer | None = loaded.tokenizer
        self.dtype = loaded.dtype
        self.limits = loaded.limits
        self._generation = loaded.generation
        if loaded.generation.ignored:
            names = ", ".join(loaded.generation.ignored)
            warnings.warn(
                f"generation_config.json of {model} asks for {names}, which Eventide doesn't do; continuations are drawn without",
                RuntimeWarning,
                stacklevel=2,
            )
        self._pool = Pool(self.limits)
        self._memory = loaded.weight_bytes, loaded.available
        self._closed = False

    # -- what it is

    @property
    def plan(self) -> Plan:
        """The compiled plan; `print(llm.plan)` shows it."""
        return self._runner.plan

    @property
    def max_seq_len(self) -> int:
        """Tokens that a prompt and its continuation may have together."""
        return self.limits.max_seq_len

    @property
    def cache_size(self) -> CacheSize:
        """What the cache of keys and values holds, and the memory that it was made from; `print` it."""
        tokens, page = self._pool.capacity, self.limits.page_size
        size = cache_bytes(self.config, replace(self.limits, num_pages=tokens // page), dtypes.itemsize(self.dtype))
        return CacheSize(tokens, page, size, *self._memory)

    @property
    def default_params(self) -> SamplingParams:
        """What the model's authors recommend (generation_config.json): used where no parameters are given."""
        params = SamplingParams().resolve(self._generation)
        s = params.sampling
        return SamplingParams(params.max_new_tokens, s.temperature, s.top_k, s.top_p)

    def close(self) -> None:
        """Stop the workers and free the memory; the model can't be used afterwards."""
        if not self._closed:
            self._closed = True
            self._runner.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LLM({self.model!r}, device={self.device!r}, dtype={self.dtype!r}, max_seq_len={self.max_seq_len})"

    # -- what it does

    @overload
    def generate(self, prompts: str, params: SamplingParams | None = None) -> Completion: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, prompts: Sequence[int], params: SamplingParams | None = None) -> Completion: ...
    @overload
    def generate(self, prompts: Sequence[str], params: Params = None) -> list[Completion]: ...
    @overload
    def generate(self, prompts: Sequence[Sequence[int]], params: Params = None) -> list[Completion]: ...
    def generate(self, prompts: Any, params: Params = None) -> Completion | list[Completion]:
        """Continue one prompt (text or token ids) or a list of them, which run together.

        `params` hold for every prompt, or are a list with one for each. Raises `PromptError` for a prompt that is
        empty, too long, or not of this vocabulary.
        """
        batch, single = self._prompts(prompts)
        requests = self._requests(batch, params)
        parts: list[list[Piece]] = [[] for _ in requests]
        for piece in self._run(requests, float("inf")):
            parts[piece.index].append(piece)
        found = [_join(*request, own) for request, own in zip(requests, parts, strict=True)]
        return found[0] if single else found

    def stream(self, prompts: Any, params: Params = None) -> Iterator[Piece]:
        """Like `generate`, as it comes: pieces of the continuations, each with the `index` of its prompt.

        Prompts and parameters are checked at once, before the first piece is asked for.
        """
        batch, _ = self._prompts(prompts)
        return self._run(self._requests(batch, params), PART_SECONDS)

    @overload
    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **variables: Any
    ) -> Completion: ...
    @overload
    def chat(
        self, messages: Sequence[Sequence[Message]], params: Params = None, **variables: Any
    ) -> list[Completion]: ...
    def chat(self, messages: Any, params: Params = None, **variables: Any) -> Completion | list[Completion]:
        """The assistant's next turn in a conversation, a list of `{"role": …, "content": …}`, or in several.

        The checkpoint's chat template writes the prompt; `variables` reach it (`tools`, `enable_thinking`, …).
        """
        several = bool(messages) and not isinstance(messages[0], Mapping)
        prompts = [self.chat_prompt(one, **variables) for one in (messages if several else [messages])]
        found = self.generate(prompts, params)
        return found if several else found[0]

    def chat_prompt(self, messages: Sequence[Message], **variables: Any) -> list[int]:
        """The token ids that the chat template makes of a conversation, for `stream` and `generate`."""
        return self._need_tokenizer("chat").encode_chat(messages, **variables)

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Teacher-forced logits: row i, after tokens 0 to i, scores token i + 1. float32 `[num_tokens, vocab_size]`."""
        if isinstance(token_ids, (str, bytes)):
            raise PromptError(f"logits takes a list of token ids, got {_short(token_ids)}")
        prompt = self._check_ids(token_ids, self.max_seq_len)
        place = self._pool.open()
        if place is None:
            raise UsageError("no slot is free: read the open streams to their ends, or close() them")
        try:
            if not self._pool.reserve(place, len(prompt)):
                raise UsageError(
                    f"{len(prompt)} tokens don't fit what is free of the cache: read the open streams to their ends, or close them"
                )
            out = np.empty((len(prompt), self.config.vocab_size), np.float32)
            self._runner.tokens[place.seq, : len(prompt)] = prompt
            width = min(self.limits.max_rows, self.limits.max_tokens)
            for start in range(0, len(prompt), width):
                count = min(width, len(prompt) - start)
                chunk = Chunk(place.seq, start, count, rows="all", sample=False)
                step = make_step(self.limits, [chunk], self._runner.tile_queries, self._pool.table)
                out[start : start + count] = self._runner.run(step)["logits"][:count]
        finally:
            self._pool.close(place)
        return out

    # -- from what the user gives to requests

    def _prompts(self, prompts: Any) -> tuple[list[list[int]], bool]:
        """(token ids of every prompt, whether there was just one)."""
        if isinstance(prompts, (bytes, Mapping)) or not (isinstance(prompts, str) or hasattr(prompts, "__len__")):
            raise PromptError(f"a prompt is a string or a list of token ids, got {_short(prompts)}")
        single = isinstance(prompts, str) or (len(prompts) > 0 and _is_int(prompts[0]))
        limit = self.max_seq_len - 1
        batch = []
        for prompt in [prompts] if single else prompts:
            if isinstance(prompt, str):
                prompt = self._need_tokenizer("a text prompt").encode(prompt)
            batch.append(self._check_ids(prompt, limit))
        return batch, single

    def _check_ids(self, token_ids: Sequence[int], limit: int) -> list[int]:
        if self._closed:
            raise UsageError("this model was closed; load it again with eventide.LLM(...)")
        try:
            ids = [operator.index(token) for token in token_ids]
        except TypeError:
            raise PromptError(f"a prompt is a string or a list of token ids, got {_short(token_ids)}") from None
        if not ids:
            raise PromptError("the prompt is empty; give at least one token")
        if len(ids) > limit:
            room = "" if limit == self.max_seq_len else ", one of them for the first new token"
            raise PromptError(
                f"the prompt has {len(ids)} tokens, and the context holds {self.max_seq_len}{room}; shorten it"
                + self._longer_context()
            )
        wrong = next((token for token in ids if not 0 <= token < self.config.vocab_size), None)
        if wrong is not None:
            raise PromptError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size} ids")
        return ids

    def _longer_context(self) -> str:
        longest = self.config.max_position_embeddings
        return f", or load the model with max_seq_len up to {longest}" if longest > self.max_seq_len else ""

    def _need_tokenizer(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise PromptError(f"this checkpoint has no tokenizer, which {what} needs; give token ids instead")
        return self.tokenizer

    def _requests(self, batch: list[list[int]], params: Params) -> list[tuple[list[int], Resolved]]:
        """Each prompt with its parameters, `max_new_tokens` bounded by what the context leaves."""
        if params is None or isinstance(params, SamplingParams):
            each = [params or SamplingParams()] * len(batch)
        else:
            each = list(params) if isinstance(params, Sequence) else [params]
            if wrong := [given for given in each if not isinstance(given, SamplingParams)]:
                raise UsageError(f"params must be SamplingParams, or a list with one for each prompt, got {_short(wrong[0])}")
            if len(each) != len(batch):
                raise UsageError(
                    f"expected one SamplingParams, or one for each of {len(batch)} prompts, got {len(each)}"
                )
        requests = []
        for prompt, wanted in zip(batch, each, strict=True):
            if wanted.stop and self.tokenizer is None:
                raise PromptError("this checkpoint has no tokenizer, which stop strings need; leave stop out")
            requests.append((prompt, bounded(wanted.resolve(self._generation), len(prompt), self.max_seq_len)))
        return requests

    def _run(self, requests: list[tuple[list[int], Resolved]], part_s: float) -> Iterator[Piece]:
        """Pieces as they come, in a loop of this call's own. Closing the iterator gives back what it has of the cache."""
        loop = StepLoop(self._runner, self._pool, self.limits.max_tokens, part_s)
        for index, (prompt, params) in enumerate(requests):
            if len(prompt) + params.max_new_tokens > self._pool.capacity:
                raise OutOfMemoryError(
                    f"a sequence of {len(prompt) + params.max_new_tokens} tokens needs more than the cache of "
                    f"{self._pool.capacity}; lower max_new_tokens or free some memory"
                )
            loop.add(Generation.of(index, params, prompt, (0, index), self.tokenizer))

        def pieces() -> Iterator[Piece]:
            try:
                while loop.busy:
                    yield from loop.step()
            finally:
                loop.close()

        return pieces()


def _join(prompt: list[int], params: Resolved, pieces: list[Piece]) -> Completion:
    reason = pieces[-1].finish_reason
    assert reason is not None
    logprobs: list[TokenLogprob] | None = None
    if params.wants_logprobs:
        logprobs = [entry for piece in pieces for entry in piece.logprobs or ()]
    return Completion(
        prompt_token_ids=list(prompt),
        token_ids=[token for piece in pieces for token in piece.token_ids],
        text="".join(piece.text for piece in pieces),
        finish_reason=reason,
        logprobs=logprobs,
    )


def _is_int(value: Any) -> bool:
    # rows of a two-dimensional array have the method too, and fail
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
