"""Recognised sizes of Show-o's public files against their published configs."""

from __future__ import annotations


def check(entry: dict, params) -> None:
    config = entry["config"]
    if "encoder" in config:
        check_tokenizer(config, params)
        return
    llm, decoder = config["llm"], params.decoder
    assert (decoder.vocab, params.text_vocab) == (config["vocab_size"], config["llm_vocab_size"])
    assert (params.codes, params.mask) == (config["codebook_size"], config["mask_token_id"])
    assert (decoder.depth, decoder.width) == (llm["num_hidden_layers"], llm["hidden_size"])
    assert (decoder.heads, decoder.kv_heads) == (
        llm["num_attention_heads"],
        llm["num_key_value_heads"],
    )
    assert (decoder.head_width, decoder.mlp_width) == (llm["head_dim"], llm["intermediate_size"])
    assert decoder.rotary_width == llm["rotary_dim"]
    assert (decoder.rotary_base, decoder.norm_eps) == (llm["rope_theta"], llm["layer_norm_eps"])
    assert bool(params.clip_width) == config["w_clip_vit"]
    assert params.clip_width in (0, 1024)
    assert params.end_of_text == 50256


def check_tokenizer(config: dict, params) -> None:
    for name in ("encoder", "decoder"):
        c, levels = config[name], getattr(params, name)
        assert [level.width for level in levels] == [c["ch"] * m for m in c["ch_mult"]]
        assert [level.blocks for level in levels] == c["num_res_blocks"]
        assert params.bits == c["z_channels"]
    assert params.vocab == config["quantizer"]["codebook_size"]
    assert (params.channels, params.stride) == (config["encoder"]["ch"], 16)
