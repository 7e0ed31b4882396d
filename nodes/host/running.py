"""Loading for a run, running in parts, progress, previews, interrupt."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import comfy.cli_args
import comfy.model_management
import comfy.utils
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from torch import Tensor

_PREVIEW_SHARE = 0.2  # of the time a run has taken so far
_BAR_SECONDS = 0.1  # between two moves of a progress bar
T = TypeVar("T")


def patchers_of(model: Any) -> list[Any]:
    """All that a model of this pack consists of."""
    return list(getattr(model, "patchers", [model.patcher]))


@contextmanager
def loaded(*models: Any, memory_required: float = 0) -> Iterator[torch.device]:
    """Bring models to their devices with room for a run; yields the first one's device."""
    device = models[0].patcher.load_device
    with comfy.model_management.cuda_device_context(device):
        patchers = [patcher for model in models for patcher in patchers_of(model)]
        comfy.model_management.load_models_gpu(patchers, memory_required=memory_required)
        yield device


def in_parts(run: Callable[[int, int], T], start: int, stop: int) -> list[T]:
    """``run(start, stop)`` over rows of a batch; in halves where the memory does not suffice."""
    try:
        return [run(start, stop)]
    except RuntimeError as error:
        comfy.model_management.raise_non_oom(error)
        if stop - start == 1:
            raise
    # Outside of the handler, whose exception still holds the tensors of the failed run.
    logging.warning("mmgen: out of memory with %d pictures, trying halves.", stop - start)
    comfy.model_management.soft_empty_cache()
    middle = (start + stop) // 2
    return in_parts(run, start, middle) + in_parts(run, middle, stop)


def to_output(image: Tensor) -> Tensor:
    """An IMAGE or MASK on the device and in the dtype that ComfyUI passes between nodes."""
    return image.to(
        comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()
    )


class StepProgress:
    """An ``on_step`` of engines that offer their own previews: interrupt, progress bar, pictures.

    A picture is left out where pictures have so far taken more than a fifth of the time.
    """

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)
        self._started = self._shown = time.perf_counter()
        self._spent = 0.0

    def __call__(self, step: int, total: int, preview: Callable[[], Tensor] | None = None) -> None:
        """``preview`` makes a picture [1, H, W, 3] in 0..1."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.perf_counter()
        if preview is None and step < total and now - self._shown < _BAR_SECONDS:
            return
        self._shown = now
        shown = None if preview is None else self._picture(preview)
        self._bar.update_absolute(step, total, shown)

    def _picture(self, preview: Callable[[], Tensor]) -> tuple[str, Image.Image, int] | None:
        args = comfy.cli_args.args
        if args.preview_method == comfy.cli_args.LatentPreviewMethod.NoPreviews:
            return None
        comfy.model_management.synchronize()  # else the sampler's queued work counts as ours
        begun = time.perf_counter()
        if self._spent > _PREVIEW_SHARE * (begun - self._started):
            return None
        pixels = preview()[0].mul(255).to("cpu", torch.uint8)
        self._spent += time.perf_counter() - begun
        return "JPEG", Image.fromarray(pixels.numpy()), args.preview_size


class Progress(StepProgress):
    """The same for engines that report the unfinished map itself."""

    def __init__(self, draw: Callable[[Tensor], Tensor]):
        super().__init__()
        self._draw = draw

    def __call__(self, step: int, total: int, f_hat_BChw: Tensor) -> None:
        super().__call__(step, total, lambda: self._draw(f_hat_BChw))


def nothing() -> ExecutionBlocker:
    """In the place of an output that does not exist this time: nodes behind it do not run."""
    return ExecutionBlocker(None)
