"""Recognised sizes of SEED's public files against their published configs."""

from __future__ import annotations


def check(entry: dict, params) -> None:
    config = entry["config"]
    if "mlp_hidden" in config:
        assert (params.depth, params.width, params.heads, params.hidden) == (
            config["depth"],
            config["embed_dim"],
            config["num_heads"],
            config["mlp_hidden"],
        )
        assert (params.side, params.patch) == (config["img_size"], config["patch_size"])
        assert params.norm_eps == config["norm_eps"]
    elif "rms_norm_eps" in config:
        check_language_model(config, params)
    elif "embed_dim" in config:
        assert (params.space, params.qformer.vocab) == (config["embed_dim"], config["vocab_size"])
    else:
        check_tokenizer(config, params)


def check_tokenizer(config: dict, params) -> None:
    q, d = params.qformer, params.detokenizer
    assert (q.queries, q.width, q.depth, q.heads) == (
        config["num_query_token"],
        config["hidden_size"],
        config["qformer_layers"],
        config["qformer_heads"],
    )
    assert ",".join(map(str, q.cross_layers)) == config["cross_attention_layers"]
    assert (q.hidden, q.norm_eps) == (config["qformer_intermediate"], config["qformer_ln_eps"])
    assert q.causal
    assert (params.vocab, params.code_width) == (config["n_embed"], config["codebook_embed_dim"])
    assert (d.depth, d.heads) == (config["decode_depth"], config["decode_heads"])
    width = config.get("image_features_dim") or config["text_features_dim"]
    assert (d.condition_width, params.generation) == (
        width,
        2 if "image_features_dim" in config else 1,
    )
    if "reverse_tokens" in config:
        assert (d.condition_tokens, d.reverse.depth) == (
            config["reverse_tokens"],
            config["reverse_layers"],
        )
        assert d.reverse.cross_layers == (0, 2) and not d.reverse.causal
    else:
        assert d.reverse is None and d.down == (256, 128, 32)


def check_language_model(config: dict, params) -> None:
    assert (params.depth, params.width, params.heads, params.kv_heads) == (
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_attention_heads"],
    )
    assert (params.mlp_width, params.vocab) == (config["intermediate_size"], config["vocab_size"])
    assert (params.norm_eps, params.rotary_base) == (config["rms_norm_eps"], config["rope_theta"])
