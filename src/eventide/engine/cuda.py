"""The GPU behind the engine: a few kernels over one copy of weights and states, none of them made for a shape.

    decode    steps in which a sequence has one token; all the steps that are asked for are one launch, and tokens come out of it
              while it runs. For one sequence, and for up to 8, or 4 where products of 16 tokens are slim, attention split over the
              past as it grows; and for up to 16, 32 or 64
    mixed     steps of up to 8, 64 or 2,048 tokens of any sequences: prompts, beside others that generate, larger batches; and of up
              to 16 and 32, where the model's heads don't fit the larger kernels of the other kind

`sizes_for` lists them, see `engine.sizes`. A step goes to the smallest kernel that holds it, or in parts to the widest; steps in
which more sequences have one token each than the decode kernels hold go to the smallest wide one. Those that a model's shape
doesn't fit are left out.
A prompt is one launch and its continuation another: a step of the engine has up to 8,192 tokens, and is one launch of several
steps of a kernel. With 8 tokens at most, a prompt of 20 tokens is three steps in one launch:

    seq, pos, slot    0..7 | 8..15 | 16..19        logit_rows  none | none | 19 - 16 = 3

The history of tokens lives twice: the host's copy, which prompts are written to, is sent before a launch if anybody asked
for it since the last one, and follows what the kernels draw.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import target
from ..backends.cuda.bandwidth import measure_read_bandwidth
from ..backends.cuda.driver import Device
from ..backends.cuda.fit import UnfitPlanError, compile_plan_source
from ..backends.cuda.kernel import CudaKernel
from ..backends.cuda.launch import Packed
from ..backends.cuda.layout import loosened
from ..backends.cuda.memory import LooseWeightsError
from ..backends.cuda.running import RunningLoop
from ..errors import EventideError, ProgramError, UsageError
from ..ir.nodes import Plan
from ..models.config import ModelConfig
from ..models.decoder import Limits
from ..models.weights import Piece
from ..profile.gpu import timelines
from ..profile.timeline import Timeline
from .limits import MAX_SEQS, choose_limits
from .load import Loaded, Progress
from .plans import compiled_plan
from .runner import Outputs, Running, stop_rule
from .sizes import PROMPT, PROMPT_ROWS, PROMPT_SLABS, TILE, Size, sizes_for
from .steps import Chunk, Step, decode_tables, split_step, split_tables_by_step

__all__ = ["CudaRunner", "cuda_limits", "open_cuda", "usable_device"]

MAX_TOKENS = 8192  # of one step of the engine
LONGEST_PART = 1024  # positions of the past that one task reads, in steps of several sequences
_RECORDS = 8192  # of every worker's timeline
_RESERVE = 512 << 20  # bytes left for launches, scratch and the driver
Array = npt.NDArray[Any]
_Finish = Callable[[], Sequence[Outputs]]


@cache
def _device() -> Device:
    return Device()


def usable_device() -> Device | None:
    """The GPU, if there is one that plans can be made for."""
    try:
        return _device()
    except EventideError:
        return None


def cuda_limits(
    config: ModelConfig, max_seq_len: int | None, max_seqs: int | None, weight_bytes: int
) -> tuple[int, Limits]:
    """(bytes free on the GPU, limits for them)."""
    device = _device()
    device.enter()
    available = device.free_bytes()[0] - _RESERVE - _prompt_bytes(config)
    limits = choose_limits(
        config,
        "bfloat16",
        max_seq_len,
        available=available,
        weight_bytes=weight_bytes,
        max_seqs=max_seqs or MAX_SEQS,
    )
    room = (limits.pages - 1) * limits.page_size
    return available, replace(limits, max_rows=max(limits.max_seqs, PROMPT_ROWS), max_tokens=min(MAX_TOKENS, room))


def _prompt_bytes(c: ModelConfig) -> int:
    """What a step of a prompt leaves on the GPU at most: the outputs of a layer's operators, and logits."""
    halves = 4 * c.hidden_size + 3 * c.q_rows + 2 * c.kv_rows + c.intermediate_size
    return PROMPT * (2 * halves + 4 * PROMPT_SLABS * c.hidden_size) + 4 * PROMPT_ROWS * c.vocab_size


def open_cuda(loaded: Loaded, schedule: str, progress: Progress | None) -> CudaRunner:
    """Compiles the kernels and loads the weights, straight from the checkpoint's files to the GPU."""
    if loaded.dtype != "bfloat16":
        raise UsageError(f"the GPU computes in bfloat16 only, got dtype={loaded.dtype!r}; use dtype='bfloat16' or device='cpu'")
    loose: frozenset[str] = frozenset()
    while True:
        runner = _compile(loaded, schedule, loose)
        try:
            runner.load(loaded.pieces(progress))
            return runner
        except LooseWeightsError as e:
            # seldom: weights with numbers that 12 bits can't hold; once more, and those as they are
            runner.close()
            loose |= e.names
        except BaseException:
            with suppress(EventideError):
                runner.close()
            raise


def _compile(loaded: Loaded, schedule: str, loose: Collection[str]) -> CudaRunner:
    """The kernels that the model fits, all at once; weights in 12 bits but for those named."""
    device = _device()
    made_for = target.h200(min(target.WORKERS, device.num_sms))

    def plan_of(size: Size) -> Plan:
        model = replace(loaded, limits=size.limits_of(loaded.limits), decode=size.decode, splits=size.splits)
        return loosened(compiled_plan(model, size.target_of(made_for), schedule), loose)

    def fits(plan: Plan) -> bool:
        """Compiles it into the cache, where its kernel finds it."""
        try:
            compile_plan_source(plan)
        except UnfitPlanError:
            return False
        return True

    sizes = sizes_for(loaded.config, loaded.limits.max_seqs)
    plans = [plan_of(size) for size in sizes]
    with ThreadPoolExecutor(len(plans)) as pool:
        chosen = [pair for pair, good in zip(zip(sizes, plans), pool.map(fits, plans)) if good]
    widest = max((size.most for size, _ in chosen if not size.decode), default=0)
    if widest < loaded.limits.max_seqs:
        # no kernel holds a token of every sequence: the narrow one does, in several tiles
        size = Size(TILE, max(TILE, loaded.limits.max_seqs))
        chosen = [*(pair for pair in chosen if pair[0].decode), (size, plan_of(size))]
    kernels: dict[Size, CudaKernel] = {}
    try:
        for size, plan in chosen:
            first = next(iter(kernels.values()), None)
            kernels[size] = CudaKernel(plan, device=device) if first is None else CudaKernel(plan, memory=first.memory)
        return CudaRunner(kernels, loaded.limits)
    except BaseException:
        with suppress(EventideError):
            if kernels:
                CudaRunner(kernels, loaded.limits).close()
        raise


class _Found(dict[str, Array]):
    """Outputs of a step; logits come from the GPU when they are asked for."""

    def __init__(self, small: dict[str, Array], kernel: CudaKernel, symbols: dict[str, int], whole: bool) -> None:
        super().__init__(small)
        self._kernel, self._symbols, self._whole = kernel, symbols, whole

    def __missing__(self, name: str) -> Array:
        if not self._whole:
            raise ProgramError(f"output '{name}' of a step in several parts is not kept; run one with sample=False to have it")
        self[name] = self._kernel.read_output(name, self._symbols)
        return self[name]


class _Launch:
    """A launch of a loop that gives its parts while it runs (`Running`). `noted`: its steps in the host's histories."""

    def __init__(self, runner: CudaRunner, loop: RunningLoop, chunks: tuple[Chunk, ...], keep: Collection[str]) -> None:
        self._runner, self.loop, self.chunks, self._keep = runner, loop, chunks, keep
        self.noted = 0

    def __iter__(self) -> Iterator[Outputs]:
        return self

    def __next__(self) -> Outputs:
        found = next(self.loop)
        self._runner._note(self, found["next_token"])
        return {name: found[name] for name in self._keep}

    def end(self) -> None:
        self.loop.finish()

    def close(self) -> None:
        self.loop.close()
        self._runner._closed(self)

    def settle(self) -> None:
        """Ends it for another launch. What it has drawn is still given to whoever goes on with it."""
        rest = self.loop.finish() if self.loop.running else None
        if rest is not None:
            noted = self.noted
            self._runner._note(self, rest["next_token"])
            self.noted = noted


@dataclass(frozen=True)
class _Prepared:
    """A step in the form in which its kernel takes it."""

    step: Step
    kernel: CudaKernel
    parts: list[Step]
    packed: Packed


class _StepLaunch:
    """A launch of one step of the engine (`Running`)."""

    def __init__(self, runner: CudaRunner, step: Step, finish: _Finish, keep: Collection[str]) -> None:
        self._runner, self._step, self._keep = runner, step, keep
        self._finish: _Finish | None = finish
        self._found: Outputs | None = None

    def __iter__(self) -> Iterator[Outputs]:
        return self

    def __next__(self) -> Outputs:
        self.settle()
        found, self._found = self._found, None
        if found is None:
            raise StopIteration
        return {name: found[name][None] for name in self._keep}

    def end(self) -> None:
        pass  # it has one step

    def close(self) -> None:
        self.settle()
        self._runner._closed(self)

    def settle(self) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            each = finish()
            self._found = {n: np.concatenate([one[n] for one in each]) for n in self._keep}
            self._runner._note_step(self._step, self._found)


class CudaRunner:
    """A model on one GPU."""

    tile_queries = 1
    overlaps, exact = True, False

    def __init__(self, kernels: Mapping[Size, CudaKernel], limits: Limits) -> None:
        self.limits = limits
        self._decode = {size.most: kernel for size, kernel in kernels.items() if size.decode}
        self._mixed = {size: kernel for size, kernel in kernels.items() if not size.decode}
        self._any = next(iter(kernels.values()))
        self.plan = self._any.plan
        self._tokens = np.zeros((limits.max_seqs, limits.max_seq_len + 1), np.int32)
        self._touched = True
        self._fresh: dict[int, int] = {}  # sequences whose history has been written, and how much of it
        self._open: list[_Launch | _StepLaunch] = []  # whose outputs haven't been taken, in their order
        self._tracers: dict[int, CudaKernel] = {}

    def load(self, pieces: Iterable[Piece]) -> None:
        """Takes all weights; LooseWeightsError, once they are there, where 12 bits don't hold them."""
        for piece in pieces:
            self._any.bind_rows(piece.name, piece.array, piece.first, piece.step, last=piece.last)
        self._any.memory.end_loading()

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        self._settle()
        self._touched = True
        return self._tokens

    def write_tokens(self, seq: int, tokens: Sequence[int]) -> None:
        """Goes to the GPU with the next launch; the one under way isn't waited for."""
        self._tokens[seq, : len(tokens)] = tokens
        self._fresh[seq] = len(tokens)

    def run(self, step: Step) -> dict[str, Array]:
        """One step of the engine as one launch; as one launch for each part if it has logits and draws nothing."""
        self._send_tokens()
        k, parts = self._parts(step)
        if step.symbols["num_samples"] == 0 and step.symbols["num_rows"] > 0 and len(parts) > 1:
            found = [k.run([part])[0] for part in parts]
            return {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        if len(parts) == 1:
            small = {n: a[0] for n, a in k.run_loop(parts[0].symbols, parts[0].inputs, 1).outputs.items()}
            outputs = _Found(small, k, parts[0].symbols, True)
        else:
            each = k.run(parts, large=False)
            outputs = _Found({n: np.concatenate([one[n] for one in each]) for n in each[0]}, k, {}, False)
        self._note_step(step, outputs)
        return outputs

    def prepare(self, step: Step) -> _Prepared:
        kernel, parts = self._parts(step)
        return _Prepared(step, kernel, parts, kernel.packer.steps(parts))

    def start(self, prepared: _Prepared, keep: Collection[str]) -> Running:
        self._make_way(prepared.kernel)
        finish = prepared.kernel.start(prepared.parts, prepared.packed, keep)
        launch = _StepLaunch(self, prepared.step, finish, keep)
        self._open.append(launch)
        return launch

    def decode(
        self,
        chunks: Sequence[Chunk],
        num_steps: int,
        block_table: Array,
        stop_tokens: Sequence[Collection[int]],
        keep: Collection[str],
        part_s: float,
    ) -> Running:
        """All steps as one launch; a part is what has come since the last one was asked for."""
        symbols, inputs, stacked = decode_tables(self.limits, chunks, num_steps, block_table)
        kernel = self._decode_kernel(len(chunks))
        if kernel is None:
            kernel = self._batch_kernel(len(chunks))[1]
        else:
            tables = _splits(kernel, self.limits, inputs["pos"])
            stacked = stacked - {"slot"} | tables.keys()
            inputs |= tables
            if tables:
                symbols["num_splits"] = tables["split_begin"].shape[1]
        packed = kernel.packer.loop(symbols, inputs, num_steps, frozenset(stacked))
        self._make_way(kernel)
        names = {*keep, "next_token"}
        stop = stop_rule(stop_tokens)
        loop = kernel.loop(symbols, inputs, num_steps, keep=names, stop=stop, interval_s=part_s, packed=packed)
        launch = _Launch(self, loop, tuple(chunks), keep)
        self._open.append(launch)
        return launch

    def _decode_kernel(self, num_seqs: int) -> CudaKernel | None:
        """The smallest for steps in which so many sequences have one token each; None: `_batch_kernel` does."""
        return next((kernel for most, kernel in self._decode.items() if num_seqs <= most), None)

    def _batch_kernel(self, num_seqs: int) -> tuple[Size, CudaKernel]:
        """The one for steps in which each of more sequences has a token: the smallest wide one, if there is any."""
        fits = (pair for pair in self._mixed.items() if pair[0].tile > TILE and num_seqs <= pair[0].most)
        return next(fits, None) or self._mixed_kernel(num_seqs)

    def _mixed_kernel(self, num_tokens: int) -> tuple[Size, CudaKernel]:
        """The smallest that holds a step, or the widest."""
        found = next((size for size in self._mixed if num_tokens <= size.most), list(self._mixed)[-1])
        return found, self._mixed[found]

    def _parts(self, step: Step) -> tuple[CudaKernel, list[Step]]:
        size, kernel = self._mixed_kernel(step.symbols["num_tokens"])
        return kernel, split_step(step, size.most, size.queries)

    def _closed(self, launch: _Launch | _StepLaunch) -> None:
        if launch in self._open:
            self._open.remove(launch)

    def _note_step(self, step: Step, outputs: Outputs) -> None:
        n = step.symbols["num_samples"]
        self._tokens[step.inputs["row_seq"][:n], step.inputs["row_pos"][:n] + 1] = outputs["next_token"][:n]

    def _note(self, opened: _Launch, drawn: Array) -> None:
        """Tokens that a launch has drawn go to the host's copy of the histories."""
        for row, chunk in enumerate(opened.chunks):
            first = chunk.start + 1 + opened.noted
            self._tokens[chunk.seq, first : first + len(drawn)] = drawn[:, row]
        opened.noted += len(drawn)

    def _settle(self) -> None:
        """Ends launches that are under way: another one wants the GPU, or the histories are looked at."""
        opened, self._open = self._open, []
        for launch in opened:
            launch.settle()

    def _make_way(self, kernel: CudaKernel) -> None:
        """Before a launch that may be queued behind a step: makes sure that nothing else is under way, and that the GPU knows the
        histories."""
        if self._touched or kernel.graph or len(self._open) > 1 or any(isinstance(one, _Launch) for one in self._open):
            self._settle()
        self._send_histories()

    def parts(self, step: Step) -> tuple[Plan, list[Step]]:
        tokens = step.symbols["num_tokens"]
        one_each = tokens == step.symbols["num_samples"]
        kernel = self._decode_kernel(tokens) if one_each else None
        if kernel is None:
            size, mixed = self._batch_kernel(tokens) if one_each else self._mixed_kernel(tokens)
            return mixed.plan, split_step(step, size.most, size.queries)
        plan = kernel.plan
        tables = _splits(kernel, self.limits, step.inputs["pos"][None])
        inputs = {**step.inputs, **{name: table[0] for name, table in tables.items()}}
        names = {t.name for t in plan.tensors.values() if t.role == "input"}
        symbols = {**step.symbols, **({"num_splits": len(inputs["split_begin"])} if tables else {})}
        kept = {name: value for name, value in symbols.items() if name in plan.symbols}
        return plan, [Step(kept, {name: inputs[name] for name in names})]

    def profile(self, step: Step, num_steps: int) -> list[Timeline]:
        """One launch of a kernel compiled to record, with a first and a last step that aren't looked at."""
        plan, parts = self.parts(step)
        if plan.schedule is None or plan.schedule.kind != "static":
            raise UsageError("tasks of the schedule 'per_op' are kernels of their own on the GPU: profile it with NVIDIA's tools")
        self._send_tokens()
        if id(plan) not in self._tracers:
            self._tracers[id(plan)] = CudaKernel(plan, memory=self._any.memory, trace=_RECORDS)
        kernel = self._tracers[id(plan)]
        most = _RECORDS // (2 * len(parts) * (len(plan.grids) + 1)) - 2  # and one for each pass, where workers meet
        if most < 1:
            raise UsageError(f"a step of {len(parts)} passes is too long to be recorded on the GPU; take a shorter context")
        found: list[Timeline] = []
        while len(found) < num_steps:
            count = min(most, num_steps - len(found))
            kernel.run(parts * (count + 2), large=False)
            found += timelines(plan, kernel.read_trace(), len(parts))[1 : count + 1]
        self._touched = True
        return found

    def read_bandwidth(self) -> float:
        self._settle()
        return measure_read_bandwidth(self._any.device)

    def close(self) -> None:
        self._settle()
        for kernel in (*self._tracers.values(), *self._mixed.values(), *self._decode.values()):
            kernel.close()
        self._any.memory.close()

    def _send_tokens(self) -> None:
        """Before other launches: makes sure that no other runs, and that the GPU knows the histories."""
        self._settle()
        self._send_histories()

    def _send_histories(self) -> None:
        if self._touched:
            self._any.write_state("tokens", self._tokens)
        else:
            for seq, n in self._fresh.items():
                self._any.memory.write("tokens", self._tokens[seq, :n], seq * self._tokens.strides[0])
        self._touched = False
        self._fresh.clear()


def _kv_heads(plan: Any) -> int:
    return max((int(g.attrs["num_kv_heads"]) for g in plan.grids if "num_kv_heads" in g.attrs), default=1)


def _splits(kernel: CudaKernel, limits: Limits, pos: Array) -> dict[str, Array]:
    """Where a decode program cuts the past in each step, `pos` being [steps, tokens]: into as many parts as keep the workers
    busy, and parts that are short enough for one long sequence among many not to be what the others wait for. None, where a task
    has all of it."""
    if "num_splits" not in kernel.plan.symbols:
        return {}
    tasks = pos.shape[1] * _kv_heads(kernel.plan)
    busy = kernel.workers // (2 * tasks if pos.shape[1] == 1 else tasks)
    most = kernel.plan.symbols["num_splits"][1]
    short = -(-(int(pos.max()) + 1) // LONGEST_PART) if pos.shape[1] > 1 else 1
    return split_tables_by_step(limits, pos.max(1) + 1, min(max(1, busy, short), most))
