"""The C++ extension: CPU workers and operators. See native/module.cpp."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RECORD_BYTES: int

class Fault(RuntimeError): ...

def supported_isas() -> list[str]: ...
def compiled_ops() -> list[str]: ...
def allocate(bytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]: ...
def from_dlpack(array: Any) -> tuple[int, tuple[int, ...], tuple[int, ...], int, int]: ...
def load_entry(path: str, symbol: str) -> int: ...
def packed_bytes(n: int, k: int, dtype: int) -> int: ...
def pack(source: int, n: int, k: int, dtype: int, to: int, num_threads: int) -> None: ...
def pack_narrow(source: int, n: int, k: int, num_threads: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None: ...

class Kernel:
    def __init__(
        self,
        plan: str,
        isa: str,
        extra: Sequence[int],
        poison: bool,
        check_counts: bool,
        pin: bool,
        delay_ns: int,
        delay_seed: int,
        spin_ns: int,
        yield_ns: int,
        long_task_ns: int,
    ) -> None: ...
    def bind(self, tensor: int, address: int, narrow: bool = False) -> None: ...
    def run(
        self,
        symbols: np.ndarray[Any, np.dtype[np.int64]],
        pointers: np.ndarray[Any, np.dtype[np.int64]],
        stop_io: int,
        stop_tokens: np.ndarray[Any, np.dtype[np.int32]] | None,
        stop_all: bool,
        between: Callable[[int], bool] | None,
        between_ns: int,
        check_signals: bool,
        records: int,
        records_per_worker: int,
        record_counts: np.ndarray[Any, np.dtype[np.int64]] | None,
    ) -> int: ...
    def run_task(self, grid: int, symbols: Sequence[int], coords: Sequence[int], operands: Sequence[int]) -> None: ...
    def stop(self) -> None: ...
    @property
    def steps_done(self) -> int: ...
