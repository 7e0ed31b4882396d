"""Nodes that go on as a graph: a picture drawn by the stock nodes, then the same node again."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_execution.graph_utils import GraphBuilder

from ..api import io

DRAWING = ("steps", "cfg", "sampler_name", "scheduler")


def sampler_names() -> list[str]:
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    return list(comfy.samplers.KSampler.SCHEDULERS)


def drawn_then(
    node: str, values: dict[str, Any], conditions: tuple[Any, Any], seed: int
) -> io.NodeOutput:
    """Draw a picture from conditions, give it to a node as ``picture``, return its first output.

    That may be no list: ComfyUI takes a list that an expanded graph gives apart.

    Args:
        values: the node's other inputs; those that a drawing needs are among them.
    """
    graph = GraphBuilder()
    latent = graph.node(
        "EmptyLatentImage", width=values["width"], height=values["height"], batch_size=1
    )
    sampled = graph.node(
        "KSampler",
        model=values["diffusion_model"],
        seed=seed,
        positive=conditions[0],
        negative=conditions[1],
        latent_image=latent.out(0),
        denoise=1.0,
        **{name: values[name] for name in DRAWING},
    )
    picture = graph.node("VAEDecode", samples=sampled.out(0), vae=values["vae"])
    given = {name: value for name, value in values.items() if value is not None}
    following = graph.node(node, picture=picture.out(0), **given)
    return io.NodeOutput(following.out(0), expand=graph.finalize())
