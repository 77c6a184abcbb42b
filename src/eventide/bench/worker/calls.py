"""Calling compiled code: tensors as DLPack structures, functions of a shared library as Python callables.

Two forms of one C++ or CUDA function ``run(x, y)``:

``C form``   ``extern "C" int run(const DLTensor* x, DLTensor* y)``; scalars are ``int64_t`` or ``double``; 0 is success.
``tvm-ffi``  ``TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run)``, which exports ``__tvm_ffi_run``; the package `apache-tvm-ffi`
             calls it.

Layouts: DLPack 1.0 (https://dmlc.github.io/dlpack/latest/c_api.html).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "bool": 6}
_SPECIAL = {
    "float8_e4m3fn": (10, 8),
    "float8_e4m3fnuz": (11, 8),
    "float8_e5m2": (12, 8),
    "float8_e5m2fnuz": (13, 8),
    "float8_e8m0fnu": (14, 8),
    "float4_e2m1": (17, 4),
    "bool": (6, 8),
}


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    """A borrowed tensor; `shape` is in elements of `dtype`, `strides` is null (row-major)."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


def describe(pointer: int, shape: tuple[int, ...], dtype: str, device: tuple[int, int] = (1, 0)) -> DLTensor:
    """A DLTensor over `pointer`; device is (1, 0) for the host and (2, index) for CUDA."""
    if dtype in _SPECIAL:
        code, bits = _SPECIAL[dtype]
    else:
        kind = dtype.rstrip("0123456789")
        code, bits = _CODES[kind], int(dtype[len(kind) :])
    dims = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    return DLTensor(pointer, _Device(*device), len(shape), _DataType(code, bits, 1), dims, None, 0)


def c_argument(value: bool | int | float | DLTensor | None) -> Any:
    """`value` as the C form takes it."""
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, DLTensor):
        return ctypes.byref(value)
    if isinstance(value, (bool, int)):
        return ctypes.c_int64(value)
    return ctypes.c_double(value)


def c_function(path: str, name: str) -> Callable[..., None]:
    """The C form of `name` in the library at `path`; raises LookupError when it is not exported.

    Its attribute `stream` is where a library that launches on the caller's stream reads it, else None.
    """
    library = ctypes.CDLL(path)
    try:
        function = library[name]
    except AttributeError:
        raise LookupError(f'the library exports neither __tvm_ffi_{name} nor extern "C" {name}') from None
    function.restype = ctypes.c_int

    def call(*arguments: Any) -> None:
        status = function(*arguments)
        if status:
            raise RuntimeError(f"{name} returned the status {status}")

    try:
        stream: ctypes.c_void_p | None = ctypes.c_void_p.in_dll(library, "eventide_bench_stream")
    except ValueError:
        stream = None
    call.stream = stream  # type: ignore[attr-defined]
    return call


def exports_tvm_ffi(path: str, name: str) -> bool:
    """Whether the library holds the tvm-ffi form of `name`, read from its bytes without loading it."""
    with open(path, "rb") as file:
        return b"__tvm_ffi_" + name.encode() + b"\0" in file.read()


def tvm_ffi_function(path: str, name: str) -> Callable[..., Any]:
    """The tvm-ffi form; takes anything that speaks DLPack."""
    import importlib

    function: Callable[..., Any] = getattr(importlib.import_module("tvm_ffi").load_module(path), name)
    return function
