"""Unified-IO 1 and 2: tasks in their own wording, boxes, and maps fitted to the picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..mmgen_core.conditioners.layout import Layout
from ..mmgen_core.systems.next_token import PictureWish
from ..mmgen_core.systems.unified_io_base import Box, UnifiedIOBase
from ..mmgen_core.systems.unified_io_boxes import layout_of
from ..mmgen_core.systems.unified_io_tasks import (
    DETECT,
    FIND,
    LOCATE,
    UNIFIED_IO,
    UNIFIED_IO_2,
)
from ..mmgen_core.tokenizers.unified_io_pictures import undo
from . import host
from .api import NextTokenModel, Prompt, io

ALIASES = ["unified-io", "unified-io 2", "uio2", "next-token", "var"]
TASKS = list(dict.fromkeys([*UNIFIED_IO_2, *UNIFIED_IO]))


def system_of(model: host.NextTokenModel) -> UnifiedIOBase:
    if not isinstance(model.system, UnifiedIOBase):
        raise ValueError(
            f"{model.file} is a model of {model.system.name}; this node needs one of Unified-IO 1 "
            f"or 2."
        )
    return model.system


class UnifiedIOTask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenUnifiedIOTask",
            display_name="Unified-IO Task",
            category="mmgen/prompts",
            description="A prompt of Unified-IO 1 or 2 for one of the tasks they were trained on, "
            "in the official wording.",
            search_aliases=[*ALIASES, "depth", "normals", "segmentation", "inpaint", "edit"],
            inputs=[
                NextTokenModel.Input("model", tooltip="The model that will read the prompt."),
                io.Combo.Input(
                    "task",
                    options=TASKS,
                    default=TASKS[0],
                    tooltip="edit, find all and detect everything are Unified-IO 2's, draw from "
                    "label colours and caption a region Unified-IO 1's, the others both know.",
                ),
                io.String.Input(
                    "words",
                    multiline=True,
                    default="",
                    tooltip="What to draw, edit, segment, ask or locate. Must be empty for "
                    "depth, surface normals, caption, classify and the region tasks.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that the task is about; every task but generate has one.",
                ),
                io.BoundingBox.Input(
                    "box",
                    optional=True,
                    force_input=True,
                    tooltip="The region for in-paint, the region tasks and Unified-IO 2's "
                    "segmentation; of several boxes the first.",
                ),
            ],
            outputs=[
                Prompt.Output("prompt", tooltip="For Token Image Sampler."),
                io.String.Output(
                    "text", tooltip="The prompt's words, for Generate Text (with the picture)."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.NextTokenModel,
        task: str,
        words: str,
        image: Tensor | None = None,
        box: Any = None,
    ) -> io.NodeOutput:
        picture = None if image is None else single(image)
        prompt = system_of(model).task_prompt(task, words, picture, first_box(box))
        return io.NodeOutput(prompt, prompt.text)


class UnifiedIOFind(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenUnifiedIOFind",
            display_name="Find Objects (Unified-IO)",
            category="mmgen/understanding",
            description="Boxes around what a text names in a picture, or around everything, by "
            "Unified-IO 1 or 2.",
            search_aliases=[*ALIASES, "detection", "localization", "grounding", "bounding box"],
            inputs=[
                NextTokenModel.Input("model", tooltip="A model of Unified-IO 1 or 2."),
                io.Image.Input("image", tooltip="The picture to look at."),
                io.Combo.Input(
                    "task",
                    options=[LOCATE, FIND, DETECT],
                    default=LOCATE,
                    tooltip="locate gives the one region that fits best; find all and detect "
                    "everything are Unified-IO 2's.",
                ),
                io.String.Input(
                    "words",
                    default="the dog",
                    tooltip="What to look for; must be empty for detect everything.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=256,
                    min=6,
                    max=512,
                    tooltip="Length of the answer at most. A box takes four tokens and its label.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="A place must come where all places together are likelier than this, "
                    "so that the answer does not end too early; 1 turns it off. Unified-IO 2's "
                    "own: 0.3 for find all, 0.5 for detect everything. Unified-IO 1 has it off.",
                ),
                io.Float.Input(
                    "overlap",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Leave out a box that shares more than this of its area with an "
                    "earlier one of the same label; 1 keeps all. Published: 0.8.",
                ),
                io.Int.Input(
                    "beams",
                    default=1,
                    min=1,
                    max=8,
                    optional=True,
                    advanced=True,
                    tooltip="Answers that beam search follows side by side; 1 takes the likeliest "
                    "token each time.",
                ),
            ],
            outputs=[
                io.BoundingBox.Output(
                    "boxes", tooltip="In pixels of the picture, with labels; none may be found."
                ),
                io.String.Output("text", tooltip="Per box: label, left, top, right, bottom."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.NextTokenModel,
        image: Tensor,
        task: str,
        words: str,
        max_tokens: int,
        threshold: float,
        overlap: float,
        beams: int = 1,
    ) -> io.NodeOutput:
        system, picture = system_of(model), single(image)
        prompt = system.task_prompt(task, words, picture)
        needed = system.memory_required(model.module, prompt, PictureWish(batch=beams))
        with host.loaded(model, memory_required=needed):
            found = system.find(
                model.module, prompt, max_tokens, threshold, overlap, beams, host.FollowText()
            )
        layout = layout_of(found, picture.shape[1], picture.shape[0], words.strip() or "object")
        return io.NodeOutput([layout.to_boxes()], listed(layout))


class FitMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenUnifiedIOFitMap",
            display_name="Fit Map to Picture (Unified-IO)",
            category="mmgen/understanding",
            description="Brings a depth, normal or segmentation map that Unified-IO drew to the "
            "size and shape of the picture it belongs to.",
            search_aliases=[*ALIASES, "depth map", "normal map", "mask", "unpad", "resize"],
            inputs=[
                NextTokenModel.Input("model", tooltip="The model that drew the map."),
                io.Image.Input("map", tooltip="What it drew, as decoded."),
                io.Image.Input("image", tooltip="The picture that the map belongs to."),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The map in the picture's size."),
                io.Mask.Output(
                    "mask",
                    tooltip="The same as a mask: the mean of its colours, for depth and "
                    "segmentation.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: host.NextTokenModel, map: Tensor, image: Tensor) -> io.NodeOutput:
        place = system_of(model).placement(single(image))
        fitted = torch.stack([undo(one[..., :3].float().cpu(), place) for one in map])
        return io.NodeOutput(host.to_output(fitted), host.to_output(fitted.mean(-1)))


def single(image_BHWC: Tensor) -> Tensor:
    """The one picture of a batch, [H, W, 3] on the CPU."""
    if len(image_BHWC) != 1:
        raise ValueError(
            f"{len(image_BHWC)} pictures are connected; a task is about one. Choose it with the "
            f"stock node Image From Batch."
        )
    return image_BHWC[0, ..., :3].float().cpu()


def first_box(boxes: Any) -> Box | None:
    """Left, top, right, bottom of the first box in what ComfyUI passes between nodes."""
    while isinstance(boxes, list):
        if not boxes:
            raise ValueError("The list of boxes is empty: nothing was found, or none was drawn.")
        boxes = boxes[0]
    if boxes is None:
        return None
    x, y, width, height = (float(boxes[key]) for key in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def listed(layout: Layout) -> str:
    lines = [f"{o.label}: {o.x}, {o.y}, {o.right}, {o.bottom}" for o in layout.objects]
    return "\n".join(lines) or "nothing found"
