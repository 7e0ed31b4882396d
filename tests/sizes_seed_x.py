"""Recognised sizes of SEED-X's public files against their published configs."""

from __future__ import annotations


def check(entry: dict, params) -> None:
    kind = type(params).__name__
    {
        "DecoderParams": check_llama,
        "SeedXAgentParams": check_agent,
        "QwenVitParams": check_vit,
        "SdxlAdapterParams": check_adapter,
    }[kind](entry["config"], params)


def check_llama(config: dict, params) -> None:
    """Also for DreamLLM's."""
    assert (params.depth, params.width, params.heads, params.mlp_width, params.vocab) == (
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["intermediate_size"],
        config["vocab_size"],
    )
    assert params.kv_heads == config.get("num_key_value_heads", params.heads)
    assert params.rotary_base == config.get("rope_theta", 10000.0)
    assert params.norm_eps == config["rms_norm_eps"]


def check_agent(config: dict, params) -> None:
    pools = {"input_resampler": params.reading, "output_resampler": params.drawing}
    for name, pool in pools.items():
        sizes = {
            "grid_size": pool.side,
            "embed_dim": pool.width,
            "num_heads": pool.heads,
            "kv_dim": pool.input_width,
        }
        assert sizes == config[name]
        assert pool.eps == 1e-5


def check_vit(config: dict, params) -> None:
    assert (params.image_size, params.patch, params.width) == (
        config["image_size"],
        config["patch_size"],
        config["width"],
    )
    assert (params.depth, params.heads) == (config["layers"], config["heads"])
    assert params.hidden == int(config["width"] * config["mlp_ratio"])
    assert (params.features, params.pool.width) == (config["n_queries"], config["output_dim"])
    assert (params.pool.heads, params.pool.eps) == (config["output_dim"] // 128, 1e-6)


def check_adapter(config: dict, params) -> None:
    config = config["resampler"]
    assert (params.width, params.depth, params.head_size) == (
        config["dim"],
        config["depth"],
        config["dim_head"],
    )
    assert params.pool_heads == config["heads"]
    assert (params.queries, params.input_width) == (config["num_queries"], config["embedding_dim"])
    assert params.hidden == config["dim"] * config["ff_mult"]
    assert params.context_widths == (config["output1_dim"], config["output2_dim"])
    assert params.pooled_width == config["output2_dim"] and not config["normalize"]
