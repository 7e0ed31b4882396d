"""Recognised sizes of Chameleon's public files against their published configs."""

from __future__ import annotations

from mmgen_core.models.decoder import DecoderParams
from mmgen_core.tokenizers.vqgan import VQGANParams

IMAGE_IDS = range(4, 8196)


def check(entry: dict, params) -> None:
    config = entry["config"]
    if isinstance(params, VQGANParams):
        return check_vqgan(config.get("ddconfig", config), config, params)
    assert isinstance(params, DecoderParams)
    original = "n_layers" in config
    names = "dim n_layers n_heads n_kv_heads ffn_hidden" if original else HF_NAMES
    width, depth, heads, kv_heads, mlp = (config[name] for name in names.split())
    assert (params.width, params.depth, params.heads) == (width, depth, heads)
    assert (params.kv_heads, params.mlp_width) == (kv_heads or heads, mlp)
    assert params.vocab == config["vocab_size"]
    assert params.norm_after == config["swin_norm"]
    assert params.norm_eps == config["norm_eps" if original else "rms_norm_eps"]
    assert params.rotary_base == config["rope_theta"]
    first, codes = params.head_blocks[:2]
    assert range(first, first + codes) == IMAGE_IDS


HF_NAMES = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size"


def check_vqgan(ddconfig: dict, config: dict, params: VQGANParams) -> None:
    a = params.autoencoder
    multipliers = ddconfig.get("ch_mult", ddconfig.get("channel_multiplier"))
    assert a.channels == ddconfig.get("ch", ddconfig.get("base_channels"))
    assert list(a.multipliers) == multipliers
    assert a.blocks == ddconfig["num_res_blocks"] and not a.attention
    assert a.latent_channels == ddconfig.get("z_channels", ddconfig.get("latent_channels"))
    assert params.code_channels == config["embed_dim"]
    assert params.vocab == config.get("n_embed", config.get("num_embeddings"))
    assert params.decoder
