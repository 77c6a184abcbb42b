"""What the GPU's driver says, in words."""

from __future__ import annotations

import pytest

from eventide.backends.cuda.driver import check_capability, check_room, explained
from eventide.errors import DeviceError, OutOfMemoryError


def test_other_gpus_are_refused_by_name() -> None:
    check_capability("NVIDIA H200", (9, 0))
    for capability in ((8, 0), (8, 9), (10, 0), (12, 0)):
        with pytest.raises(DeviceError, match=rf"NVIDIA X has compute capability {capability[0]}.{capability[1]}; .*device='cpu'"):
            check_capability("NVIDIA X", capability)


def test_memory_is_said_as_needed_and_free() -> None:
    check_room("plan 'm'", 5 << 30, 5 << 30, 141 << 30, "NVIDIA H200")
    told = r"plan 'm' needs 16\.50 GiB of GPU memory, and 5\.00 of NVIDIA H200's 141\.00 GiB are free"
    with pytest.raises(OutOfMemoryError, match=told):
        check_room("plan 'm'", int(16.5 * 2**30), 5 << 30, 141 << 30, "NVIDIA H200")


@pytest.mark.parametrize(
    "error, kind, message",
    [
        ("CUDA_ERROR_OUT_OF_MEMORY", OutOfMemoryError, "out of memory while allocating a buffer"),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU", DeviceError, "older than the compiler: update it"),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", DeviceError, "older than the compiler: update it"),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", DeviceError, "its context is lost, .* or go on with device='cpu'"),
        ("CUDA_ERROR_LAUNCH_FAILED", DeviceError, "its context is lost"),
        ("CUDA_ERROR_INVALID_VALUE", DeviceError, "reported CUDA_ERROR_INVALID_VALUE while allocating a buffer$"),
    ],
)
def test_errors_of_the_driver(error: str, kind: type[Exception], message: str) -> None:
    found = explained(error, "allocating a buffer")
    assert type(found) is kind
    with pytest.raises(kind, match=message):
        raise found
