"""Element types by name, with the standard library alone.

A dtype is a plain string (``"float32"``, ``"bfloat16"``, …): it prints, compares and goes into JSON as it is. Facts
about it stand once, in ``_TABLE``. NumPy and ml_dtypes are imported only when an array type is asked for.

    itemsize("bfloat16")                  2
    is_float("int32")                     False
    to_numpy("bfloat16")                  dtype(bfloat16), from ml_dtypes
    from_numpy(array.dtype)               "bfloat16"
    from_safetensors("BF16")              "bfloat16"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventide.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DTYPES", "check", "from_numpy", "from_safetensors", "is_float", "itemsize", "to_numpy"]


@dataclass(frozen=True)
class _Facts:
    itemsize: int  # bytes
    is_float: bool
    safetensors: str  # the name in a safetensors header


_TABLE = {
    "float32": _Facts(4, True, "F32"),
    "bfloat16": _Facts(2, True, "BF16"),
    "float16": _Facts(2, True, "F16"),
    "float64": _Facts(8, True, "F64"),
    "int8": _Facts(1, False, "I8"),
    "int16": _Facts(2, False, "I16"),
    "int32": _Facts(4, False, "I32"),
    "int64": _Facts(8, False, "I64"),
    "uint8": _Facts(1, False, "U8"),
    "uint16": _Facts(2, False, "U16"),
    "uint32": _Facts(4, False, "U32"),
    "uint64": _Facts(8, False, "U64"),
    "bool": _Facts(1, False, "BOOL"),
}
DTYPES: tuple[str, ...] = tuple(_TABLE)
_FROM_SAFETENSORS = {facts.safetensors: name for name, facts in _TABLE.items()}


def check(name: str) -> str:
    """Return `name` if it is a known dtype; raise `UsageError` that lists them otherwise."""
    if name not in _TABLE:
        raise UsageError(f"unknown dtype {name!r}; expected one of {', '.join(DTYPES)}")
    return name


def itemsize(name: str) -> int:
    """Bytes of one element."""
    return _TABLE[check(name)].itemsize


def is_float(name: str) -> bool:
    """Whether the dtype is a floating-point one."""
    return _TABLE[check(name)].is_float


def to_numpy(name: str) -> np.dtype[Any]:
    """The NumPy dtype of the same elements; ``bfloat16`` is ml_dtypes' extension type."""
    import numpy as np

    if check(name) != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def from_numpy(dtype: Any) -> str:
    """The name of a NumPy dtype (or of anything that ``np.dtype`` takes); raises `UsageError` for one not in the
    table."""
    import numpy as np

    # ml_dtypes names its type "bfloat16" too, so the name alone decides
    return check(np.dtype(dtype).name)


def from_safetensors(code: str) -> str | None:
    """The name of a safetensors element type such as ``BF16``; None for one that Eventide doesn't know (FP8, …)."""
    return _FROM_SAFETENSORS.get(code)
