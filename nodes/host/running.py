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
from PIL import Image
from torch import Tensor

_PREVIEW_SHARE = 0.2  # of the time a run has taken so far
T = TypeVar("T")


@contextmanager
def loaded(*models: Any, memory_required: float = 0) -> Iterator[torch.device]:
    """Bring models to their devices with room for a run; yields the first one's device."""
    device = models[0].patcher.load_device
    with comfy.model_management.cuda_device_context(device):
        patchers = [model.patcher for model in models]
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


class Progress:
    """An ``on_step`` of a sampler: interrupt, progress bar, and pictures of the unfinished map.

    A picture is left out where pictures have so far taken more than a fifth of the time.
    """

    def __init__(self, picture: Callable[[Tensor], Tensor]):
        self._picture = picture
        self._bar = comfy.utils.ProgressBar(1)
        self._started, self._spent = time.perf_counter(), 0.0

    def __call__(self, step: int, total: int, f_hat_BChw: Tensor) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(step, total, self._preview(f_hat_BChw))

    def _preview(self, f_hat_BChw: Tensor) -> tuple[str, Image.Image, int] | None:
        args = comfy.cli_args.args
        if args.preview_method == comfy.cli_args.LatentPreviewMethod.NoPreviews:
            return None
        comfy.model_management.synchronize()  # else the sampler's queued work counts as ours
        begun = time.perf_counter()
        if self._spent > _PREVIEW_SHARE * (begun - self._started):
            return None
        pixels = self._picture(f_hat_BChw)[0].mul(255).to("cpu", torch.uint8)
        self._spent += time.perf_counter() - begun
        return "JPEG", Image.fromarray(pixels.numpy()), args.preview_size
