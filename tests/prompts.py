"""Prompts in the server's form, for tests in the real ComfyUI."""

from __future__ import annotations

import copy
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mmgen_core.commands.client import WorkflowError
from mmgen_core.commands.places import API_WORKFLOWS


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def draw(
    model: str = "tiny_var.safetensors", tokenizer: str = "tiny_vae.safetensors", **settings
) -> dict[str, dict]:
    """Class to picture: nodes model, tokenizer, sampler, decode, save."""
    sampler = {
        "class_id": 0,
        "seed": 0,
        "guidance": 4.0,
        "top_k": 0,
        "top_p": 0.95,
        "smooth": False,
        "batch_size": 1,
        "keep_scales": 0,
    }
    return {
        "model": node("MMGenLoadScaleModel", model_name=model, dtype="auto"),
        "tokenizer": node("MMGenLoadImageTokenizer", tokenizer_name=tokenizer, dtype="auto"),
        "sampler": node(
            "MMGenScaleSampler",
            model=["model", 0],
            tokenizer=["tokenizer", 0],
            **(sampler | settings),
        ),
        "decode": node("MMGenDecodeTokens", tokenizer=["tokenizer", 0], tokens=["sampler", 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="test"),
    }


def write_text(
    text: str = "a red fox",
    negative: str = "",
    own_attention: bool = False,
    model: str = "tiny_star.pth",
    dtype: str = "auto",
    **settings,
) -> dict[str, dict]:
    """Text to picture: the nodes of ``draw``, and clip and text."""
    prompt = draw(model, **settings)
    prompt["model"]["inputs"]["dtype"] = dtype
    name = {"clip_name": "tiny_clip.safetensors", "type": "stable_diffusion"}
    prompt["clip"] = node("CLIPLoader", **name)
    texts = {"text": text, "negative": negative, "own_attention": own_attention}
    prompt["text"] = node("MMGenEncodeScaleText", clip=["clip", 0], **texts)
    prompt["sampler"]["inputs"]["prompt"] = ["text", 0]
    return prompt


def fails(host, prompt: dict, *texts: str) -> None:
    """The server refuses or fails the prompt with one message that has all these patterns."""
    with pytest.raises(WorkflowError) as caught:
        host.run(prompt)
    message = str(caught.value)
    for text in texts:
        assert re.search(text, message), f"{text!r} not in: {message}"


def read(name: str) -> dict:
    """A shipped workflow."""
    return json.loads((API_WORKFLOWS / f"{name}.json").read_text("utf-8"))


def ids_of(prompt: dict, *kinds: str) -> list[str]:
    return [node for node, entry in prompt.items() if entry["class_type"] in kinds]


def with_seed(prompt: dict, seed: int) -> dict:
    """The same prompt with other seeds in all samplers."""
    prompt = copy.deepcopy(prompt)
    for node in ids_of(prompt, "MMGenScaleSampler"):
        prompt[node]["inputs"]["seed"] = seed
    return prompt


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float32)
