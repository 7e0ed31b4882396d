"""Layouts in the units of the latent picture, and as elements of a JSON prompt."""

from __future__ import annotations

from typing import Any

from .layouts import Layout, LayoutObject

LATENT = 8  # pixels of the picture per step of the latent one
LEAST_AREA = 64  # pixels that a net with three halvings of the latent needs

Area = tuple[int, int, int, int]  # height, width, top, left in latent steps


def gligen_places(layout: Layout, room: int) -> list[tuple[str, Area]]:
    """Descriptions and places as GLIGEN takes them.

    Raises:
        ValueError: more boxes than there is room for.
    """
    if len(layout.objects) > room:
        raise ValueError(
            f"The layout has {len(layout.objects)} boxes, GLIGEN has room for {room} more. "
            f"Remove some on the canvas, or plan fewer."
        )
    return [(o.description, latent_area(o)) for o in layout.objects]


def latent_area(entry: LayoutObject) -> Area:
    """A box in latent steps, rounded down as ComfyUI's own nodes do; at least one step."""
    return (
        max(1, entry.height // LATENT),
        max(1, entry.width // LATENT),
        entry.y // LATENT,
        entry.x // LATENT,
    )


def area_regions(layout: Layout) -> list[tuple[str, Area]]:
    """Descriptions and areas that can be drawn alone: boxes under 64 pixels are widened about
    their middle, inside of the canvas.

    Raises:
        ValueError: the canvas itself is smaller.
    """
    if min(layout.width, layout.height) < LEAST_AREA:
        raise ValueError(
            f"The canvas is {layout.width} x {layout.height} pixels; regional prompts need at "
            f"least {LEAST_AREA} in both directions."
        )
    return [(o.description, latent_area(_widened(o, layout))) for o in layout.objects]


def _widened(entry: LayoutObject, layout: Layout) -> LayoutObject:
    x, width = _span(entry.x, entry.width, layout.width)
    y, height = _span(entry.y, entry.height, layout.height)
    return LayoutObject(entry.label, x, y, width, height, entry.attributes, entry.text)


def _span(start: int, length: int, side: int) -> tuple[int, int]:
    if length >= LEAST_AREA:
        return start, length
    begin = start + (length - LEAST_AREA) // 2
    return max(0, min(begin, side - LEAST_AREA)), LEAST_AREA


def elements(layout: Layout) -> list[dict[str, Any]]:
    """Elements as ComfyUI's canvas gives them: ymin, xmin, ymax, xmax on a grid of 1000."""
    found = []
    for entry in layout.objects:
        edges = (
            (entry.y, layout.height),
            (entry.x, layout.width),
            (entry.bottom, layout.height),
            (entry.right, layout.width),
        )
        element: dict[str, Any] = {
            "type": "text" if entry.text else "obj",
            "bbox": [round(edge * 1000 / side) for edge, side in edges],
        }
        if entry.text:
            element["text"] = entry.text
        found.append({**element, "desc": entry.description})
    return found
