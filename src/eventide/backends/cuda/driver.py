"""The few calls of the CUDA driver that the backend makes, through cuda-bindings, with errors in words."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import DeviceError, EventideError, MissingDependencyError, OutOfMemoryError

CAPABILITY = (9, 0)
Array = np.ndarray[Any, np.dtype[Any]]
# after one of these nothing of the context can be used again
_LOST = (
    "ILLEGAL", "ADDRESS_SPACE", "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "MISALIGNED", "INVALID_PC", "ASSERT", "HARDWARE", "ECC",
    "IS_DESTROYED",
)  # fmt: skip


def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError:
        raise MissingDependencyError(
            "running on a GPU needs cuda-bindings; install it with: pip install 'eventide[cuda]'"
        ) from None
    return driver


def explained(error: str, doing: str) -> EventideError:
    """The error to raise for one of the driver's, by its name."""
    if "OUT_OF_MEMORY" in error:
        return OutOfMemoryError(f"the GPU is out of memory while {doing} ({error})")
    if any(word in error for word in ("NO_BINARY", "UNSUPPORTED_PTX", "INVALID_IMAGE")):
        return DeviceError(f"the GPU driver can't load the compiled code ({error}); it is older than the compiler: update it")
    if any(word in error for word in _LOST):
        return DeviceError(
            f"the GPU reported {error} while {doing}: its context is lost, and this process can't use the GPU again; "
            "start another one, or go on with device='cpu'"
        )
    return DeviceError(f"the GPU reported {error} while {doing}")


def check_capability(name: str, capability: tuple[int, int]) -> None:
    """DeviceError for a GPU that code can't be generated for."""
    if capability != CAPABILITY:
        major, minor = capability
        raise DeviceError(
            f"{name} has compute capability {major}.{minor}; Eventide generates code for 9.0 (Hopper) so far. Use device='cpu'"
        )


def check_room(what: str, needed: int, free: int, total: int, name: str) -> None:
    """OutOfMemoryError, with both figures, if `needed` bytes are more than the GPU has free."""
    if needed > free:
        raise OutOfMemoryError(
            f"{what} needs {needed / 2**30:.2f} GiB of GPU memory, and {free / 2**30:.2f} of {name}'s {total / 2**30:.2f} GiB "
            "are free; take a smaller model, max_seq_len or max_seqs, or device='cpu'"
        )


class Device:
    """One GPU and its primary context. Raises DeviceError when there is none, or one that plans can't be made for."""

    def __init__(self, ordinal: int = 0) -> None:
        self.cu = _driver()
        try:
            self.call(self.cu.cuInit, 0, doing="initialising the CUDA driver")
        except EventideError as e:
            raise DeviceError(f"no GPU can be used: {e}; use device='cpu'") from None
        except Exception as e:
            # the bindings look for the driver's library at their first call
            raise DeviceError(
                f"no GPU can be used: the NVIDIA driver's library was not found ({type(e).__name__}); install a driver for "
                "CUDA 13, or use device='cpu'"
            ) from None
        count = self.call(self.cu.cuDeviceGetCount, doing="counting GPUs")
        if ordinal >= count:
            raise DeviceError(f"GPU {ordinal} was asked for, but the driver reports {count} GPUs")
        self.handle = self.call(self.cu.cuDeviceGet, ordinal)
        attr = self.cu.CUdevice_attribute
        major = self.attribute(attr.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
        minor = self.attribute(attr.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        self.name = self.call(self.cu.cuDeviceGetName, 256, self.handle).split(b"\0")[0].decode()
        check_capability(self.name, (major, minor))
        self.num_sms = self.attribute(attr.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.driver_version = self.call(self.cu.cuDriverGetVersion)
        self.context = self.call(self.cu.cuDevicePrimaryCtxRetain, self.handle, doing="creating a CUDA context")
        self.call(self.cu.cuCtxSetCurrent, self.context)
        self.stream = self.call(self.cu.cuStreamCreate, 1)

    def call(self, fn: Any, *args: Any, doing: str = "") -> Any:
        err, *rest = fn(*args)
        if err != self.cu.CUresult.CUDA_SUCCESS:
            name = self.cu.cuGetErrorName(err)[1]
            raise explained(name.decode() if isinstance(name, bytes) else str(err), doing or fn.__name__)
        return rest[0] if len(rest) == 1 else rest or None

    def tensor_map(self, address: int, rows: int, row_bytes: int, box: tuple[int, int]) -> Array:
        """The CUtensorMap of a matrix of 8-byte words, uint8 [128], for boxes of `box` rows and bytes."""
        cu = self.cu
        sizes = [[cu.cuuint64_t(row_bytes // 8), cu.cuuint64_t(rows)], [cu.cuuint64_t(row_bytes)]]
        steps = [[cu.cuuint32_t(box[1] // 8), cu.cuuint32_t(box[0])], [cu.cuuint32_t(1), cu.cuuint32_t(1)]]
        plain = (
            cu.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            cu.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_NONE,
            cu.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE,
            cu.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        words = cu.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_UINT64
        found = self.call(cu.cuTensorMapEncodeTiled, words, 2, address, *sizes, *steps, *plain, doing="describing a matrix")
        return np.array([int(word) for word in found.opaque], np.uint64).view(np.uint8)

    def attribute(self, which: Any) -> int:
        return int(self.call(self.cu.cuDeviceGetAttribute, which, self.handle))

    def free_bytes(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU's memory."""
        free, total = self.call(self.cu.cuMemGetInfo)
        return int(free), int(total)

    def allocate(self, nbytes: int, what: str) -> int:
        check_room(what, nbytes, *self.free_bytes(), self.name)
        return int(self.call(self.cu.cuMemAlloc, max(nbytes, 16), doing=f"allocating {what}"))

    def free(self, address: int) -> None:
        self.call(self.cu.cuMemFree, address, doing="freeing memory")

    def enter(self) -> None:
        """Makes the context that of this thread, which may not be the one that made it."""
        self.call(self.cu.cuCtxSetCurrent, self.context, doing="entering the CUDA context")

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        self.call(self.cu.cuMemsetD8Async, address, byte, nbytes, self.stream)

    def upload(self, address: int, array: Array) -> None:
        """From pageable memory, which the driver has read when this returns; later work of the stream sees the copy."""
        a = np.ascontiguousarray(array)
        if a.nbytes:
            self.call(self.cu.cuMemcpyHtoDAsync, address, a.ctypes.data, a.nbytes, self.stream, doing="copying to the GPU")

    def download(self, address: int, out: Array) -> None:
        """After all work of the stream."""
        if out.nbytes:
            self.call(self.cu.cuMemcpyDtoHAsync, out.ctypes.data, address, out.nbytes, self.stream, doing="copying from the GPU")
            self.synchronize()

    def host_memory(self, nbytes: int) -> Array:
        """Page-locked memory that kernels reach at the same address: uint8 [nbytes]."""
        address = int(self.call(self.cu.cuMemHostAlloc, nbytes, 1 | 2, doing="allocating page-locked memory"))
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def free_host_memory(self, array: Array) -> None:
        self.call(self.cu.cuMemFreeHost, array.ctypes.data, doing="freeing page-locked memory")

    def event(self) -> Any:
        return self.call(self.cu.cuEventCreate, 0, doing="creating an event")

    def record(self, event: Any) -> None:
        self.call(self.cu.cuEventRecord, event, self.stream, doing="recording an event")

    def wait(self, event: Any) -> None:
        """Until an event has passed, if it was ever recorded."""
        self.call(self.cu.cuEventSynchronize, event, doing="waiting for a copy")

    def milliseconds(self, begin: Any, end: Any) -> float:
        """Between two events that have passed."""
        return float(self.call(self.cu.cuEventElapsedTime, begin, end, doing="reading a clock"))

    def load(self, cubin: bytes, name: str) -> tuple[Any, Any]:
        """(module, its function of that name)."""
        module = self.call(self.cu.cuModuleLoadData, cubin, doing="loading compiled code")
        return module, self.call(self.cu.cuModuleGetFunction, module, name.encode())

    def function(self, cubin: bytes, name: str) -> Any:
        return self.load(cubin, name)[1]

    def unload(self, module: Any) -> None:
        self.call(self.cu.cuModuleUnload, module, doing="unloading code")

    def shared_memory(self, function: Any, nbytes: int) -> None:
        attr = self.cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self.call(self.cu.cuFuncSetAttribute, function, attr, nbytes, doing=f"asking for {nbytes} bytes of shared memory")

    def get(self, module: Any, name: str) -> Any:
        return self.call(self.cu.cuModuleGetFunction, module, name.encode(), doing=f"looking for {name}")

    def launch(
        self,
        function: Any,
        grid: int,
        block: int,
        shared: int,
        *params: Any,
        cooperative: bool = False,
        overlapping: bool = False,
    ) -> None:
        """Launches with ctypes values or structures as parameters. `overlapping`: with programmatic dependent launch."""
        pointers = (ctypes.c_void_p * len(params))(*(ctypes.addressof(p) for p in params))
        args = (function, grid, 1, 1, block, 1, 1, shared, self.stream, ctypes.addressof(pointers))
        if overlapping:
            attribute = self.cu.CUlaunchAttribute()
            attribute.id = self.cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config = self.cu.CUlaunchConfig()
            config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
            config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
            config.sharedMemBytes, config.hStream = shared, self.stream
            config.attrs, config.numAttrs = [attribute], 1
            self.call(self.cu.cuLaunchKernelEx, config, function, args[-1], 0, doing="launching a kernel")
        elif cooperative:
            self.call(self.cu.cuLaunchCooperativeKernel, *args, doing="launching the kernel")
        else:
            self.call(self.cu.cuLaunchKernel, *args, 0, doing="launching a kernel")

    @contextmanager
    def capturing(self) -> Iterator[list[Any]]:
        """Launches inside are recorded, not run: the list gets the graph of them, ready to launch."""
        found: list[Any] = []
        self.call(self.cu.cuStreamBeginCapture, self.stream, self.cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
        try:
            yield found
        finally:
            graph = self.call(self.cu.cuStreamEndCapture, self.stream, doing="recording a graph")
        found.append(self.call(self.cu.cuGraphInstantiate, graph, 0, doing="making a graph"))
        self.call(self.cu.cuGraphDestroy, graph)

    def launch_graph(self, graph: Any) -> None:
        self.call(self.cu.cuGraphLaunch, graph, self.stream, doing="launching a graph")

    def free_graph(self, graph: Any) -> None:
        self.call(self.cu.cuGraphExecDestroy, graph, doing="freeing a graph")

    def done(self) -> bool:
        """Whether all work is finished; errors of the work come out here."""
        err = self.cu.cuStreamQuery(self.stream)[0]
        if err == self.cu.CUresult.CUDA_ERROR_NOT_READY:
            return False
        self.call(lambda: (err,), doing="running the kernel")
        return True

    def synchronize(self) -> None:
        self.call(self.cu.cuStreamSynchronize, self.stream, doing="running the kernel")
