"""Recognised sizes of STAR's public files against their published configs."""

from __future__ import annotations


def check(entry: dict, params) -> None:
    config = entry["config"]
    if "num_hidden_layers" in config:
        assert (params.depth, params.width, params.heads) == (
            config["num_hidden_layers"],
            config["hidden_size"],
            config["num_attention_heads"],
        )
        assert (params.hidden, params.vocab) == (config["intermediate_size"], config["vocab_size"])
        assert (params.positions, params.end_id) == (
            config["max_position_embeddings"],
            config["eos_token_id"],
        )
        assert params.quick_gelu == (config["hidden_act"] == "quick_gelu")
        return
    assert (params.depth, params.width, params.heads, params.text_width) == (
        config["depth"],
        config["embed_dim"],
        config["num_heads"],
        config["in_dim_cross"],
    )
    assert (list(params.scales), params.tokens) == (config["patch_nums"], config["tokens"])
    assert (params.rotary.theta, params.rotary.norm) == (config["rope_theta"], config["rope_norm"])
    assert params.refine_from == config["sample_from_idx"]
    assert params.head_norm and not params.smooth_filtered and params.classes == 0
    assert (params.vocab, params.code_channels) == (config["vocab_size"], config["z_channels"])
