"""What both recipes share: the budget of a run, its schedule, averaged weights, resumable state."""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30.0, help="training time; ends the run")
    parser.add_argument("--steps", type=int, help="train this many steps, however long they take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--cache", default=".cache/drawings", help="where the drawings are kept")
    parser.add_argument("--runs", default=".cache/runs", help="where unfinished runs are kept")
    parser.add_argument("--out", default="models", help="where the finished model goes")
    parser.add_argument("--fresh", action="store_true", help="ignore an unfinished run")


def start(args: argparse.Namespace) -> torch.device:
    """Seed, threads, log and process group of a run; the device it uses.

    Under `torchrun` the processes share the run: each draws its own batches, gradients are
    averaged. On a CPU that others use too, processes of one thread wait for each other far less
    than the threads of one process do.
    """
    level = logging.INFO if int(os.environ.get("RANK", 0)) == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda" and dist.is_initialized():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device(device)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(module: nn.Module) -> None:
    """Mean of every gradient over the processes of the run."""
    if dist.is_initialized():
        for p in module.parameters():
            dist.all_reduce(p.grad)
            p.grad.div_(dist.get_world_size())


def from_first(tensor: Tensor) -> None:
    """Overwrites the tensor with the first process's, where there are several."""
    if dist.is_initialized():
        dist.broadcast(tensor, 0)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def attention_for(device: torch.device) -> sdpa_kernel:
    """The kernel to train attention with: on a CPU, masked flash attention has a slow backward."""
    if device.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


@dataclass
class Budget:
    """How far a run is: by steps when they are given, by training time otherwise."""

    minutes: float
    steps: int | None
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the budget is spent."""
        part = self.step / self.steps if self.steps else self.seconds / (60 * self.minutes)
        return min(1.0, part if self.steps else furthest(part))

    def tick(self) -> None:
        now = time.monotonic()
        self.step += 1
        self.seconds += now - self._last
        self._last = now


def furthest(progress: float) -> float:
    """The largest value over the processes, so that all end at the same step."""
    if not dist.is_initialized():
        return progress
    value = torch.tensor(progress)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return value.item()


def one_cycle(progress: float, peak: float, warm: float = 0.05, floor: float = 0.01) -> float:
    """Learning rate: a linear rise over the first `warm` of the run, then a cosine fall."""
    if progress < warm:
        return peak * (0.02 + 0.98 * progress / warm)
    fall = 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))
    return peak * (floor + (1 - floor) * fall)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Every group's learning rate; a group may carry its own factor under "factor"."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)


class Ema:
    """Running average of a module's parameters, with a window that grows with the step."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        state = module.state_dict()
        names = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.average[k] for k in names], [state[k] for k in names], weight)


class RunState:
    """Everything needed to go on after an interruption, in one file written atomically."""

    def __init__(self, path: Path, every_seconds: float = 180.0) -> None:
        self.path = path
        self.every = every_seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last > self.every

    def save(self, module, optimiser, ema: Ema, budget: Budget) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        state = {
            "names": [name for name, _ in module.named_parameters()],
            "module": module.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": ema.average,
            "step": budget.step,
            "seconds": budget.seconds,
            "random": torch.get_rng_state(),
        }
        torch.save(state, part)
        os.replace(part, self.path)
        self._last = time.monotonic()

    def load(self, module, optimiser, ema: Ema, budget: Budget) -> bool:
        """True if an unfinished run was found and taken up.

        Raises:
            ValueError: it is of another model. The optimiser's state goes by the parameters'
                order, so a renamed or moved one counts as another.
        """
        if not self.path.exists():
            return False
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["names"] != [name for name, _ in module.named_parameters()]:
            raise ValueError(f"{self.path} is a run of another model. Start over with --fresh.")
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        for name, value in state["average"].items():
            ema.average[name].copy_(value)
        budget.step, budget.seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["random"])
        log.info("going on from step %d, %.0f s (%s)", budget.step, budget.seconds, self.path)
        return True


def settings(args: argparse.Namespace) -> dict:
    """The run's arguments for its card, without where files lay on the machine."""
    places = ("cache", "runs", "out", "teacher", "tokenizer", "text_encoder")
    return {name: value for name, value in vars(args).items() if name not in places}


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def byte_tensors(tensors: dict[str, Tensor], keep: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors with the weights of layers in 8-bit floats (e4m3), which files are read from as
    any other; vectors, small ones and names that hold one of ``keep`` stay in fp16."""

    def is_stored_small(name: str, tensor: Tensor) -> bool:
        return tensor.ndim > 1 and tensor.numel() >= 4096 and not any(k in name for k in keep)

    return {
        name: tensor.to(torch.float8_e4m3fn) if is_stored_small(name, tensor) else tensor
        for name, tensor in half_tensors(tensors).items()
    }


def half_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are stored: floats in fp16, contiguous."""
    return {
        k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in tensors.items()
    }
