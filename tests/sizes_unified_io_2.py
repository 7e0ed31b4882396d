"""Recognised sizes of Unified-IO 2's public files against their published configs."""

from __future__ import annotations


def check(entry: dict, params) -> None:
    config = entry["config"]["t5_config"]
    check_stack(config, params.stack)
    assert (params.text_vocab, params.image_vocab) == (
        config["vocab_size"],
        config["image_vocab_size"],
    )
    assert params.codes == entry["config"]["image_vqgan"]["n_embed"]
    assert params.patch == config["image_vit_patch_size"]
    for grid, key in (
        (params.grid, "default_image_vit_size"),
        (params.history_grid, "default_image_history_vit_size"),
    ):
        assert [side * params.patch for side in grid] == config[key]
    assert params.target_grid[0] * params.target_grid[1] == config["decoder_max_image_length"]
    assert params.text_limit == config["encoder_max_text_length"]
    check_vision(entry["config"]["image_vit_cfg"], params.vision)
    check_history(entry["config"]["image_history_cfg"], params.history)


def check_stack(config: dict, stack) -> None:
    assert (stack.width, stack.heads, stack.head_size, stack.mlp_width) == (
        config["emb_dim"],
        config["num_heads"],
        config["head_dim"],
        config["mlp_dim"],
    )
    assert stack.encoder_depth == config["num_encoder_layers"]
    assert stack.decoder_depth == config["num_decoder_layers"]


def check_vision(config: dict, vision) -> None:
    assert (vision.depth, vision.width, vision.heads, vision.mlp_width, vision.positions) == (
        config["num_layers"],
        config["emb_dim"],
        config["num_heads"],
        config["mlp_dim"],
        config["num_pos"],
    )
    assert vision.patch_values == 3 * config["patch_size"] ** 2


def check_history(config: dict, history) -> None:
    assert (history.depth, history.width, history.heads, history.head_size) == (
        len(config["xattention_index"]),
        config["emb_dim"],
        config["num_heads"],
        config["head_dim"],
    )
    assert (history.mlp_width, history.latents, history.frames) == (
        config["mlp_dim"],
        config["latents_size"],
        config["max_frames"],
    )
    assert history.scaled_cosine == config["xattn_scaled_cosine"]
