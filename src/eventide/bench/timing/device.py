"""What state the hardware was in while it was timed: clocks, temperature, power, where the machine tells them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from eventide.bench.schema import DeviceState


@cache
def hardware_name(device: str) -> str:
    """The name under which results are filed: the GPU's, or the processor's."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _first_number(path: str, scale: float) -> float | None:
    try:
        return int(Path(path).read_text()) * scale
    except (OSError, ValueError):
        return None


def _cpu_clock_mhz() -> float | None:
    values = [
        _first_number(str(p), 1e-3) for p in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    ]
    known = [v for v in values if v]
    if known:
        return sum(known) / len(known)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        mhz = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
        return sum(mhz) / len(mhz) if mhz else None
    except (OSError, ValueError, IndexError):
        return None


def _cpu_temperature_c() -> float | None:
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp")):
        value = _first_number(str(zone), 1e-3)
        if value:
            return value
    return None


def _cpu_state() -> DeviceState:
    return DeviceState(
        temperature_c=_cpu_temperature_c(),
        notes={"cpu_clock_mhz": _cpu_clock_mhz(), "load_1min": os.getloadavg()[0], "cores": os.cpu_count()},
    )


# the last field was renamed; drivers know one of the names or both
_GPU_FIELDS = "clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active"
_OLD_GPU_FIELDS = _GPU_FIELDS.replace("event_reasons", "throttle_reasons")


def _gpu_state(index: int) -> DeviceState:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return DeviceState(notes={"missing": "nvidia-smi is not installed"})
    for names in (_GPU_FIELDS, _OLD_GPU_FIELDS):
        argv = [tool, f"--id={index}", f"--query-gpu={names}", "--format=csv,noheader,nounits"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        fields = [f.strip() for f in done.stdout.strip().split(",")]
        if done.returncode == 0 and len(fields) == 5:
            break
    else:
        return DeviceState(notes={"missing": f"nvidia-smi: {done.stderr.strip() or done.stdout.strip()}"})

    def number(text: str) -> float | None:
        try:
            return float(text)
        except ValueError:
            return None

    reasons = int(fields[4], 16) if fields[4].startswith("0x") else 0
    return DeviceState(
        sm_clock_mhz=number(fields[0]),
        memory_clock_mhz=number(fields[1]),
        temperature_c=number(fields[2]),
        power_w=number(fields[3]),
        throttled=bool(reasons & ~0x1),  # bit 0 is an idle GPU
        notes={"throttle_reasons": fields[4]},
    )


def device_state(device: str) -> DeviceState:
    """The state right now; what the machine does not tell is absent, with a note."""
    if device.startswith("cuda"):
        return _gpu_state(int(device.partition(":")[2] or 0))
    return _cpu_state()


def library_versions(device: str) -> dict[str, str]:
    """Versions of what a result depends on, without importing it."""
    from importlib.metadata import PackageNotFoundError, version

    libs = {"python": platform.python_version()}
    for package in ("eventide", "numpy", "torch", "triton", "apache-tvm-ffi"):
        try:
            libs[package] = version(package)
        except PackageNotFoundError:
            continue
    if device.startswith("cuda"):
        import torch

        libs["cuda"] = str(torch.version.cuda)
    return libs
