"""Boxes in SEED-X's answers."""

from __future__ import annotations

from torch import Tensor

from ..mmgen_core.conditioners.layout import Layout, LayoutObject
from ..mmgen_core.conditioners.seed_x import boxes
from .api import io
from .query_models import ALIASES


class SeedXBoxes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenSeedXBoxes",
            display_name="Boxes from Answer (SEED-X)",
            category="mmgen/understanding",
            description="Reads the boxes out of an answer of SEED-X, in pixels of the picture that "
            "was asked about.",
            search_aliases=[*ALIASES, "detection", "grounding", "bounding box"],
            inputs=[
                io.String.Input(
                    "answer",
                    force_input=True,
                    tooltip="What Generate Text gave, with SEED-X as its CLIP. Ask the base model "
                    "<image>the dog [[ <box_start> without the template, or SEED-X-I in words.",
                ),
                io.Image.Input("image", tooltip="The picture that was asked about, for its size."),
                io.String.Input(
                    "label",
                    default="object",
                    tooltip="What was looked for; the boxes are named so.",
                ),
            ],
            outputs=[
                io.BoundingBox.Output(
                    "boxes",
                    tooltip="In pixels of the picture, with labels; for Draw BBoxes, GLIGEN or the "
                    "canvas. None may be found.",
                )
            ],
        )

    @classmethod
    def execute(cls, answer: str, image: Tensor, label: str) -> io.NodeOutput:
        height, width = image.shape[1:3]
        found = []
        for left, top, across, down in boxes(answer):
            # A box may reach over the edge by rounding, or by the model's mistake.
            x, y = max(0, round(left * width)), max(0, round(top * height))
            right, bottom = round((left + across) * width), round((top + down) * height)
            sides = min(right, width) - x, min(bottom, height) - y
            if min(sides) > 0:
                found.append(LayoutObject(label.strip() or "object", x, y, *sides))
        return io.NodeOutput([Layout(width, height, found).to_boxes()])
