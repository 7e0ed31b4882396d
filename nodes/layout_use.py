"""What a layout is for: GLIGEN, regional prompts, masks, a picture of it, JSON prompts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..mmgen_core.conditioners.layout import from_boxes
from ..mmgen_core.conditioners.layout.drawing import (
    background_mask,
    box_masks,
    compose,
    picture,
)
from ..mmgen_core.conditioners.layout.regions import area_regions, elements, gligen_places
from . import host
from .api import io
from .layout import ALIASES, boxes_input, canvas_inputs


class LayoutToGligen(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLayoutToGligen",
            display_name="Layout to GLIGEN",
            category="mmgen/layout",
            description="Grounds all boxes of a layout at once for a Stable Diffusion 1.x model "
            "with GLIGEN, as the stock node does for one box.",
            search_aliases=[*ALIASES, "gligen", "grounded", "text box"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The encoded prompt of the whole picture."
                ),
                io.Clip.Input("clip", tooltip="The text encoder of the model that draws."),
                io.Custom("GLIGEN").Input(
                    "gligen_textbox_model", tooltip="From GLIGENLoader; made for SD 1.x models."
                ),
                boxes_input(),
                *canvas_inputs(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", tooltip="The same prompt with its boxes: for positive."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        conditioning: list[Any],
        clip: Any,
        gligen_textbox_model: Any,
        boxes: Any,
        width: int,
        height: int,
    ) -> io.NodeOutput:
        layout = from_boxes(boxes, width, height)
        there = max(
            (len(extra.get("gligen", (0, 0, []))[2]) for _, extra in conditioning), default=0
        )
        places = gligen_places(layout, room=gligen_textbox_model.model.max_objs - there)
        grounded = [(host.grounding_feature(clip, text), *place) for text, place in places]
        return io.NodeOutput(host.with_gligen(conditioning, gligen_textbox_model, grounded))


class LayoutToRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLayoutToRegions",
            display_name="Layout to Regional Prompts",
            category="mmgen/layout",
            description="Gives every box its own prompt and the whole picture another, for any SD "
            "or SDXL model.",
            search_aliases=[*ALIASES, "regional prompt", "area", "mask", "omost", "sdxl"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that draws."),
                boxes_input(),
                io.String.Input(
                    "background",
                    multiline=True,
                    tooltip="Prompt of the whole picture: the caption or background of the plan.",
                ),
                io.String.Input(
                    "style",
                    default="",
                    tooltip="Words put after every box's and the background's prompt.",
                ),
                *canvas_inputs(),
                io.Combo.Input(
                    "mode",
                    options=["area", "mask"],
                    default="area",
                    tooltip="area: each box is drawn as a picture of its own and mixed in (at "
                    "least 64 pixels wide and high). mask: the whole picture is drawn for each "
                    "prompt and cut out by its mask; slower, blends better.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Weight of the boxes' prompts.",
                ),
                io.Float.Input(
                    "background_strength",
                    default=0.3,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="Weight of the background's prompt, which holds everywhere: small, so "
                    "that inside of a box its own prompt decides.",
                ),
                io.Int.Input(
                    "feather",
                    default=32,
                    min=0,
                    max=1024,
                    tooltip="Mode mask: pixels over which a box fades out.",
                ),
            ],
            outputs=[io.Conditioning.Output("conditioning", tooltip="All prompts: for positive.")],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        boxes: Any,
        background: str,
        style: str,
        width: int,
        height: int,
        mode: str,
        strength: float,
        background_strength: float,
        feather: int,
    ) -> io.NodeOutput:
        layout = from_boxes(boxes, width, height)
        around = {"strength": background_strength}
        parts = [(background, around)]
        if mode == "area":
            for text, area in area_regions(layout):
                parts.append(
                    (text, {"area": area, "strength": strength, "set_area_to_bounds": False})
                )
        else:
            for entry, mask in zip(layout.objects, box_masks(layout, feather), strict=True):
                held = {"mask": mask[None], "mask_strength": strength, "set_area_to_bounds": False}
                parts.append((entry.description, held))
        return io.NodeOutput(
            [
                [cond, {**extra, **held}]
                for text, held in parts
                for cond, extra in host.encode_prompt(clip, styled(text, style))
            ]
        )


def styled(text: str, style: str) -> str:
    return ", ".join(part.strip() for part in (text, style) if part.strip())


class LayoutToMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLayoutToMasks",
            display_name="Layout to Masks",
            category="mmgen/layout",
            description="Gives the boxes of a layout as masks, and their descriptions as texts.",
            search_aliases=[*ALIASES, "mask", "inpaint", "segment"],
            inputs=[
                boxes_input(),
                *canvas_inputs(),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Pixels over which a box fades out, inside of its edge.",
                ),
                io.String.Input("style", default="", tooltip="Words put after every description."),
            ],
            outputs=[
                io.Mask.Output("masks", tooltip="One mask per box, in their order, as a batch."),
                io.Mask.Output("background", tooltip="What no box covers."),
                io.String.Output(
                    "texts",
                    is_output_list=True,
                    tooltip="The descriptions one after the other: what follows runs for each.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, boxes: Any, width: int, height: int, feather: int, style: str
    ) -> io.NodeOutput:
        layout = from_boxes(boxes, width, height)
        masks = box_masks(layout, feather)
        texts = [styled(entry.description, style) for entry in layout.objects]
        around = background_mask(masks)
        return io.NodeOutput(host.to_output(masks), host.to_output(around), texts)


class DrawLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenDrawLayout",
            display_name="Draw Layout",
            category="mmgen/layout",
            description="Draws the boxes of a layout with their descriptions.",
            search_aliases=[*ALIASES, "preview", "visualize", "draw boxes"],
            inputs=[boxes_input(), *canvas_inputs()],
            outputs=[io.Image.Output("image", tooltip="A picture of the plan.")],
        )

    @classmethod
    def execute(cls, boxes: Any, width: int, height: int) -> io.NodeOutput:
        return io.NodeOutput(host.to_output(picture(from_boxes(boxes, width, height))))


class LayoutToElements(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLayoutToElements",
            display_name="Layout to JSON Prompt Elements",
            category="mmgen/layout",
            description="Gives a layout as the elements of a JSON prompt, for Build JSON Prompt "
            "(Ideogram).",
            search_aliases=[*ALIASES, "ideogram", "json prompt", "elements"],
            inputs=[boxes_input(), *canvas_inputs()],
            outputs=[
                io.Array.Output("elements", tooltip="For element of Build JSON Prompt (Ideogram).")
            ],
        )

    @classmethod
    def execute(cls, boxes: Any, width: int, height: int) -> io.NodeOutput:
        return io.NodeOutput(elements(from_boxes(boxes, width, height)))


class ComposeLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenComposeLayout",
            display_name="Compose Layout",
            category="mmgen/layout",
            description="Puts one picture into each box of a layout, for models that draw one "
            "thing at a time.",
            search_aliases=[*ALIASES, "collage", "paste", "composite", "star"],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="One picture per box, in their order: a batch, or one after the other "
                    "from the texts of Layout to Masks.",
                ),
                boxes_input(),
                *canvas_inputs(),
                io.Int.Input(
                    "feather", default=0, min=0, max=1024, tooltip="Pixels over which edges fade."
                ),
                io.Float.Input(
                    "clear_white",
                    default=0.15,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="See through the white ground of drawings: how far from white a colour "
                    "must be to be kept whole. 0 keeps everything.",
                ),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="The picture behind, scaled to the canvas; white without.",
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="The composed picture.")],
            is_input_list=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        boxes: list[Any],
        width: list[int],
        height: list[int],
        feather: list[int],
        clear_white: list[float],
        background: list[Tensor] | None = None,
    ) -> io.NodeOutput:
        layout = from_boxes(boxes[0], width[0], height[0])
        drawn = [image for batch in images for image in batch]
        behind = background[0][0] if background else None
        composed = compose(layout, drawn, behind, feather[0], clear_white[0])
        return io.NodeOutput(host.to_output(composed))
