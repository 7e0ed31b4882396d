"""What a language model is told so that it plans a layout."""

from __future__ import annotations

from .layouts import Layout

PLAN_MARK = '"objects"'  # by this a model trained for two tasks knows that a layout is wanted

INSTRUCTIONS = """You plan the layout of a picture. Answer with one JSON object and nothing else:
{"caption": "the whole picture in one sentence", "background": "what is around the objects", \
"objects": [{"label": "a thing", "attributes": "its colour, material, pose", \
"box": [left, top, right, bottom]}]}
Coordinates are whole numbers from 0 to 1000 across the picture: left and top are 0, right and \
bottom are 1000. The picture is %(width)d pixels wide and %(height)d high.
Give every thing its own entry: three cats are three entries. At most %(objects)d. Sizes and \
places must fit each other: what stands on the ground is near the bottom, what is far away is \
small, "left of" means a smaller left. Boxes stay inside the picture and overlap only where \
things really do."""

EXAMPLES = (
    (
        "two red balloons above a small dog on a beach",
        '{"caption": "two red balloons above a small dog on a beach", "background": "beach with '
        'sea and blue sky", "objects": [{"label": "balloon", "attributes": "red", "box": '
        '[180, 60, 420, 400]}, {"label": "balloon", "attributes": "red", "box": '
        '[580, 80, 820, 420]}, {"label": "dog", "attributes": "small, sitting", "box": '
        "[380, 620, 620, 940]}]}",
    ),
)
COMPLAINT = """Your last plan was:
%(plan)s
It does not fit the wish: %(complaints)s.
Plan again, and mend this."""


def instructions(width: int, height: int, objects: int) -> str:
    """The instructions for a picture of that size, with an example."""
    told = INSTRUCTIONS % {"width": width, "height": height, "objects": objects}
    shown = "\n".join(f"Wish: {wish}\n{plan}" for wish, plan in EXAMPLES)
    return f"{told}\nExample. {shown}"


def complaint(plan: Layout | str, complaints: list[str]) -> str:
    """What to add to the instructions so that the model mends its plan."""
    text = plan if isinstance(plan, str) else str(plan.to_json())
    return COMPLAINT % {"plan": text, "complaints": "; ".join(complaints)}
