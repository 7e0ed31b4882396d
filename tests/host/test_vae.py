"""The tokenizer as a stock VAE: VAE Encode, VAE Decode and their tiled forms take it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from prompts import draw, node
from safetensors.torch import load_file


def stock(host, **nodes: dict) -> dict[str, np.ndarray]:
    """Saved pictures by node, of a drawn picture and what stock nodes make of it."""
    prompt = draw() | nodes
    result = host.run(prompt)
    return {
        file.node: np.asarray(Image.open(io.BytesIO(host.client.download(file))), np.float32)
        for file in host.image_files(result)
    }


def save(source: str) -> dict:
    return node("SaveImage", images=[source, 0], filename_prefix=source)


def test_stock_nodes_run_and_agree_with_ours(host, models):
    pictures = stock(
        host,
        encode=node("VAEEncode", pixels=["decode", 0], vae=["tokenizer", 1]),
        vae=node("VAEDecode", samples=["encode", 0], vae=["tokenizer", 1]),
        save_vae=save("vae"),
        tokens=node("MMGenEncodeImage", tokenizer=["tokenizer", 0], image=["decode", 0]),
        ours=node("MMGenDecodeTokens", tokenizer=["tokenizer", 0], tokens=["tokens", 0]),
        save_ours=save("ours"),
    )
    assert pictures["save_vae"].shape == pictures["save"].shape
    assert np.abs(pictures["save_vae"] - pictures["save_ours"]).max() <= 1


def test_tiled_decode_and_encode(host, models):
    large = node(
        "ImageScale",
        image=["decode", 0],
        upscale_method="bicubic",
        width=256,
        height=128,
        crop="disabled",
    )
    tiles = {"tile_size": 128, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}
    pictures = stock(
        host,
        large=large,
        encode=node("VAEEncode", pixels=["large", 0], vae=["tokenizer", 1]),
        whole=node("VAEDecode", samples=["encode", 0], vae=["tokenizer", 1]),
        save_whole=save("whole"),
        tiled=node("VAEDecodeTiled", samples=["encode", 0], vae=["tokenizer", 1], **tiles),
        save_tiled=save("tiled"),
        encode_tiled=node("VAEEncodeTiled", pixels=["large", 0], vae=["tokenizer", 1], **tiles),
        back=node("VAEDecode", samples=["encode_tiled", 0], vae=["tokenizer", 1]),
        save_back=save("back"),
    )
    for name in ("save_whole", "save_tiled", "save_back"):
        assert pictures[name].shape == (128, 256, 3) and pictures[name].std() > 2, name
    difference = np.abs(pictures["save_whole"] - pictures["save_tiled"]).mean()
    assert difference < pictures["save_whole"].std()


def test_saved_vae_has_the_published_layout(host, models):
    saving = {
        "tokenizer": draw()["tokenizer"],
        "save": node("VAESave", vae=["tokenizer", 1], filename_prefix="vae/test"),
    }
    host.run(saving)
    saved = load_file(next((host.output_dir / "vae").glob("test_*.safetensors")))
    original = load_file(models / "tiny_vae.safetensors")
    assert {k: v.shape for k, v in saved.items()} == {k: v.shape for k, v in original.items()}


def test_no_weights_warning_is_kept_from_the_log(host, models):
    assert "No VAE weights detected" not in host.log
