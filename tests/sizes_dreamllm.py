"""Recognised sizes of DreamLLM's public files against their published configs."""

from __future__ import annotations

from sizes_seed_x import check_llama


def check(entry: dict, params) -> None:
    config, kind = entry["config"], type(params).__name__
    if kind == "DecoderParams":
        check_llama(config, params)
    elif kind == "ClipVisionParams":  # openai/clip-vit-large-patch14, second to last layer
        assert config["select_layer"] == -2
        assert (params.depth, params.width, params.heads, params.hidden) == (23, 1024, 16, 4096)
        assert (params.patch, params.features, params.image_size) == (14, 256, 224)
        assert params.output_widths == (4096,)
    elif kind == "DreamQueriesParams":
        assert params.queries == config["num_dream_queries"]
        assert params.width == config["embed_hidden_size"]
    else:
        assert kind == "DreamProjectorParams"
        assert params.widths == (4096, config["unet"]["cross_attention_dim"])
        assert params.pooled_width == 0
