"""Inputs that several nodes have, so that they are named, limited and explained alike."""

from __future__ import annotations

from . import host
from .api import io

MAX_SEED = 0xFFFFFFFFFFFFFFFF


def file_input(name: str, demo: str, tooltip: str | None = None) -> io.Input:
    """A picker of the model folders that opens on a demo model, where there is one."""
    files = host.model_files()
    return io.Combo.Input(
        name,
        options=files,
        default=demo if demo in files else None,
        tooltip=tooltip
        or "A file in models/mmgen. The architecture and its size are recognised from the file.",
    )


def dtype_input() -> io.Input:
    """Precision of a transformer's weights."""
    return io.Combo.Input(
        "dtype",
        options=host.dtype_choices(),
        default="auto",
        tooltip="Precision of the weights. auto follows ComfyUI's policy for this device; fp8 "
        "and int8 halve the memory of bf16 at a small loss of quality.",
    )


def seed_input(
    tooltip: str = "Seed of the first picture; picture i of a batch equals a single run with "
    "seed + i. The random numbers do not depend on the device.",
) -> io.Input:
    return io.Int.Input(
        "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip
    )


def batch_input() -> io.Input:
    return io.Int.Input(
        "batch_size", default=1, min=1, max=1024, tooltip="How many pictures to draw at once."
    )


def sampling_inputs(
    temperature: float, top_k: int, top_p: float, published: str, optional: bool = False
) -> list[io.Input]:
    """How an id is chosen: temperature, top_k, top_p.

    Args:
        published: whose settings the defaults are, and which others were published.
    """
    return [
        io.Float.Input(
            "temperature",
            default=temperature,
            min=0.0,
            max=5.0,
            step=0.05,
            optional=optional,
            tooltip=f"Below 1 safer, above 1 more varied; 0 takes the likeliest token. {published}",
        ),
        io.Int.Input(
            "top_k",
            default=top_k,
            min=0,
            max=65536,
            optional=optional,
            tooltip=f"Draw among this many likeliest tokens; 0 allows all. {published}",
        ),
        io.Float.Input(
            "top_p",
            default=top_p,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=optional,
            tooltip="Draw among the likeliest tokens that make up this share of the probability; "
            f"0 turns the limit off. {published}",
        ),
    ]
