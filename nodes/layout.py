"""Layouts planned by a language model, read from text, and checked."""

from __future__ import annotations

import json
from typing import Any

from ..mmgen_core.conditioners.layout import Layout, from_boxes, parse
from ..mmgen_core.conditioners.layout.check import check
from ..mmgen_core.conditioners.layout.grammar import LayoutGrammar
from ..mmgen_core.conditioners.layout.planning import Plan, Wish, improve, plan
from ..mmgen_core.conditioners.text_writer import TextSettings
from . import host
from .api import io, ui
from .rewrite import writing_inputs

ALIASES = ["layout", "llm", "var", "bounding boxes", "layoutgpt", "llm-grounded diffusion"]
GRIDS = ["auto", "fraction", "pixels", "512", "1000", "1024", "64", "100"]


def canvas_inputs() -> list[io.Input]:
    """The size of the picture that boxes stand in."""
    return [
        io.Int.Input(
            name,
            default=512,
            min=16,
            max=16384,
            step=8,
            tooltip=f"{name.capitalize()} in pixels of the picture that the boxes stand in.",
        )
        for name in ("width", "height")
    ]


def boxes_input(optional: bool = False) -> io.Input:
    return io.MultiType.Input(
        "boxes",
        [io.BoundingBox, io.Array],
        optional=optional,
        tooltip="Boxes of Plan Layout or Read Layout, or the elements output of ComfyUI's canvas "
        "(Create Bounding Boxes), after editing there.",
    )


def layout_outputs() -> list[io.Output]:
    return [
        io.BoundingBox.Output(
            "boxes",
            tooltip="The boxes in pixels, each with its description in metadata.desc: for the "
            "canvas (Create Bounding Boxes) or the nodes that use a layout.",
        ),
        io.String.Output("caption", tooltip="The whole picture in a sentence."),
        io.String.Output("background", tooltip="What is around the objects."),
        io.String.Output("layout", tooltip="The layout as JSON; Read Layout reads it back."),
    ]


class PlanLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenPlanLayout",
            display_name="Plan Layout (LLM)",
            category="mmgen/layout",
            description="Lets a language model plan what stands where in a picture, as boxes that "
            "can be edited on ComfyUI's canvas.",
            search_aliases=[*ALIASES, "gligen", "regional prompt", "compose"],
            inputs=[
                io.Clip.Input(
                    "clip",
                    tooltip="A text model: Load LLM, Connect LLM Endpoint, or one of ComfyUI's "
                    "own. Models of Load LLM cannot write anything but a valid plan.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The picture: things, how many, and where.",
                ),
                *canvas_inputs(),
                io.Int.Input(
                    "max_objects",
                    default=12,
                    min=1,
                    max=100,
                    tooltip="Most boxes to plan. GLIGEN takes 30.",
                ),
                *writing_inputs(1024, 0.7),
                io.Int.Input(
                    "retries",
                    default=1,
                    min=0,
                    max=10,
                    tooltip="How often to ask again, with the complaint, where a plan does not "
                    "have the things, numbers or places of the prompt.",
                ),
            ],
            outputs=layout_outputs(),
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        prompt: str,
        width: int,
        height: int,
        max_objects: int,
        seed: int,
        max_length: int,
        temperature: float,
        top_p: float,
        retries: int,
    ) -> io.NodeOutput:
        wish = Wish(prompt, width, height, max_objects)
        ask = asking(clip, prompt, seed, max_length, temperature, top_p)
        found = plan(wish, ask, retries)
        return shown(found.layout, report_of(found))


def asking(clip: Any, prompt: str, seed: int, length: int, temperature: float, top_p: float):
    """Asks the text model; another seed at each attempt."""

    def ask(told: str, attempt: int, grammar: LayoutGrammar) -> str:
        settings = TextSettings(length, temperature, top_p=top_p, seed=seed + attempt)
        return host.write_text(clip, prompt, settings, told, grammar=grammar)

    return ask


def report_of(found: Plan) -> str:
    lines = [f"fits {found.report.score:.0%}, {found.attempts} attempts"]
    return "\n".join([*lines, *found.failures, *found.report.complaints])


def shown(layout: Layout, report: str = "") -> io.NodeOutput:
    """A layout's outputs, and what is to be said about it as text on the node."""
    text = json.dumps(layout.to_json(), ensure_ascii=False)
    listed = [f"{o.description}: {o.x}, {o.y}, {o.width} x {o.height}" for o in layout.objects]
    lines = [*([report] if report else []), *layout.issues, *listed]
    return io.NodeOutput(
        [layout.to_boxes()],
        layout.caption,
        layout.background,
        text,
        ui=ui.PreviewText("\n".join(lines)),
    )


class ReadLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenReadLayout",
            display_name="Read Layout",
            category="mmgen/layout",
            description="Reads a layout that any language model wrote: JSON, LLM-grounded "
            "diffusion lists, LayoutGPT lines, whatever the coordinates count in.",
            search_aliases=[*ALIASES, "parse", "json to boxes", "chatgpt"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    tooltip="The answer of a language model, pasted or from Generate Text. It is "
                    "data: nothing in it is ever run.",
                ),
                *canvas_inputs(),
                io.Combo.Input(
                    "grid",
                    options=GRIDS,
                    default="auto",
                    tooltip="What the coordinates count in: fractions of the picture, its pixels, "
                    "or a square of that side. auto finds out.",
                ),
            ],
            outputs=layout_outputs(),
            has_intermediate_output=True,
        )

    @classmethod
    def execute(cls, text: str, width: int, height: int, grid: str) -> io.NodeOutput:
        layout = parse(text, width, height, grid)
        return shown(layout, f"coordinates: {layout.unit}")


class CheckLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenCheckLayout",
            display_name="Check Layout",
            category="mmgen/layout",
            description="Scores a layout against the prompt (numbers, places, sizes, overlaps) "
            "and can ask a language model once more with the complaint.",
            search_aliases=[*ALIASES, "score", "validate", "spatial relations", "count"],
            inputs=[
                boxes_input(),
                io.String.Input(
                    "prompt", multiline=True, tooltip="The text that the layout was planned for."
                ),
                *canvas_inputs(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the new plan, if one is asked for.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="A text model that is asked once for a better plan where this one does "
                    "not fit. The better of both goes on.",
                ),
            ],
            outputs=[
                io.BoundingBox.Output("boxes", tooltip="The layout, or the better new one."),
                io.Float.Output(
                    "score", tooltip="Share of what the prompt asks for that the layout has, 0..1."
                ),
                io.String.Output("report", tooltip="What does not fit, one complaint per line."),
            ],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls, boxes: Any, prompt: str, width: int, height: int, seed: int, clip: Any = None
    ) -> io.NodeOutput:
        layout = from_boxes(boxes, width, height)
        report = check(layout, prompt)
        if report.complaints and clip is not None:
            ask = asking(clip, prompt, seed, 1024, 0.7, 0.95)
            found = improve(layout, report, Wish(prompt, width, height), ask)
            layout, report = found.layout, found.report
        lines = [f"fits {report.score:.0%}", *report.complaints]
        return io.NodeOutput(
            [layout.to_boxes()],
            report.score,
            "\n".join(report.complaints),
            ui=ui.PreviewText("\n".join(lines)),
        )
