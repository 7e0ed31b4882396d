"""Timing in turns, peak memory, and tables."""

from __future__ import annotations

import ctypes
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

CLEAR_REFS = Path("/proc/self/clear_refs")


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_in_turns(
    runs: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every run, A B C A B C ..., after one warm-up of each."""
    for run in runs.values():
        run()
    seconds = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


class HighWater:
    """Peak memory since it was made, asked for in the middle of a run; 0 where unknown."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        elif CLEAR_REFS.exists():
            _give_back_freed()
            self.before = _status("VmRSS")
            CLEAR_REFS.write_text("5")  # sets the high-water mark to the present

    def peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _status("VmHWM") - self.before if CLEAR_REFS.exists() else 0


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Memory that one run takes at its peak beyond what is held before it; None if unknown."""
    if device.type != "cuda" and not CLEAR_REFS.exists():
        return None
    water = HighWater(device)
    run()
    return water.peak()


def _give_back_freed() -> None:
    """Has the C library return what earlier runs freed, else a run that reuses it looks free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * w for w in widths], *rows]:
        say("  ".join(str(cell).ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def spread(seconds: list[float]) -> str:
    median = statistics.median(seconds)
    return f"{median:.3f} ({min(seconds):.3f}-{max(seconds):.3f})"


def machine(device: torch.device) -> str:
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        models = [ln for ln in cpuinfo.read_text().splitlines() if ln.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
