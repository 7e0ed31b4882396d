"""Recognised sizes of VAR's public files against their published configs."""

from __future__ import annotations


def check(entry: dict, params) -> None:
    config = entry["config"]
    if "v_patch_nums" in config:
        a = params.autoencoder
        assert (params.vocab, a.latent_channels) == (config["vocab_size"], config["z_channels"])
        assert (a.channels, list(a.multipliers)) == (config["ch"], config["ch_mult"])
        assert (a.blocks, a.norm_groups) == (config["num_res_blocks"], config["norm_num_groups"])
        assert (params.phi_count, params.phi_ratio) == (
            config["share_quant_resi"],
            config["quant_resi"],
        )
        assert list(params.scales) == config["v_patch_nums"]
        assert a.stride == config["downsample"]
        return
    assert (params.depth, params.width, params.heads, params.classes) == (
        config["depth"],
        config["embed_dim"],
        config["num_heads"],
        config["num_classes"],
    )
    assert (list(params.scales), params.tokens) == (config["patch_nums"], config["tokens"])
    assert params.shared_adaln == config["shared_aln"]
    assert params.qk_norm == config["attn_l2_norm"]
    assert (params.vocab, params.code_channels) == (config["vocab_size"], config["z_channels"])
