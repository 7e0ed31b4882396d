"""Prompts in the server's form, for tests in the real ComfyUI."""

from __future__ import annotations


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
