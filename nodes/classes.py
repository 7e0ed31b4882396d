"""Choosing a class by name."""

from __future__ import annotations

from ..mmgen_core.systems.class_search import NO_CLASS, find_class
from ..mmgen_core.systems.var import imagenet_classes
from . import host
from .api import ScaleModel, io

NO_CLASS_NAME = "no class"


def numbered_classes() -> list[str]:
    """Entries such as "0980 volcano": the number for reading, the name for the filter."""
    return [f"{i:04} {name}" for i, name in enumerate(imagenet_classes())] + [NO_CLASS_NAME]


class ImageNetClass(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenImageNetClass",
            display_name="ImageNet Class",
            category="mmgen/classes",
            description="The number of an ImageNet class, for models trained on its 1000 classes.",
            search_aliases=["imagenet", "var", "class", "label", "category"],
            inputs=[
                io.Combo.Input(
                    "imagenet_class",
                    options=numbered_classes(),
                    default="0980 volcano",
                    tooltip="Type a part of the name to filter. For other models, such as the "
                    "demo model, use Class by Name.",
                )
            ],
            outputs=[
                io.Int.Output(
                    "class_id", display_name="class id", tooltip="0 to 999, or -1 for no class."
                )
            ],
        )

    @classmethod
    def execute(cls, imagenet_class: str) -> io.NodeOutput:
        if imagenet_class == NO_CLASS_NAME:
            return io.NodeOutput(NO_CLASS)
        return io.NodeOutput(int(imagenet_class.split(" ", 1)[0]))


class ClassByName(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenClassByName",
            display_name="Class by Name",
            category="mmgen/classes",
            description="Finds a class of the loaded model by its name or a part of it.",
            search_aliases=["imagenet", "var", "class", "label", "find class", "category"],
            inputs=[
                ScaleModel.Input("model", tooltip="The model whose classes are searched."),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="A class name or a part that only one name has; upper and lower case "
                    "do not matter. Empty or 'no class' draws without a class. With a wrong name "
                    "the error lists the closest ones.",
                ),
            ],
            outputs=[
                io.Int.Output(
                    "class_id", display_name="class id", tooltip="For the Scale Sampler."
                ),
                io.String.Output(
                    "class_name", display_name="class name", tooltip="The full name found."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: host.ScaleModel, name: str) -> io.NodeOutput:
        class_id = find_class(model.classes, name)
        found = NO_CLASS_NAME if class_id == NO_CLASS else model.classes[class_id]
        return io.NodeOutput(class_id, found)
