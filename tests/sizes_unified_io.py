"""Recognised sizes of Unified-IO's public files against their published configs."""

from __future__ import annotations


def check(entry: dict, params) -> None:
    config, stack = entry["config"], params.stack
    assert (stack.width, stack.heads, stack.head_size, stack.mlp_width) == (
        config["emb_dim"],
        config["num_heads"],
        config["head_dim"],
        config["mlp_dim"],
    )
    assert stack.encoder_depth == config["num_encoder_layers"]
    assert stack.decoder_depth == config["num_decoder_layers"]
    assert (params.text_vocab, params.image_vocab) == (
        config["vocab_size"],
        config["image_vocab_size"],
    )
    assert (params.segments, params.patch) == (config["num_seg_emb"], config["image_patch_size"])
    assert params.grid[0] * params.grid[1] == config["encoder_max_image_length"]
    assert [side * params.patch for side in params.grid] == config["default_image_size"]
    assert params.target_grid[0] * params.target_grid[1] == config["decoder_max_image_length"]
    assert (params.text_limit, params.answer_limit) == (
        config["encoder_max_text_length"],
        config["decoder_max_text_length"],
    )
