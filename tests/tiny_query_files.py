"""Tiny SEED-X and DreamLLM repositories on disk, in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_queries
import torch
from safetensors.torch import save_file
from tiny_queries import ADAPTER, AGENT, CLIP, DREAM_ADDED, QUERIES, SEED_X_ADDED, VIT, WORDS

from mmgen_core.models.dream_queries import (
    DreamProjector,
    DreamProjectorParams,
    DreamQueriesParams,
)
from mmgen_core.systems import dreamllm, llama, seed_x

LANGUAGE_CONFIG = {"num_attention_heads": 2, "max_position_embeddings": 256}
POOLS = {"input_resampler": {"num_heads": 2}, "output_resampler": {"num_heads": 2}}


def write_words(path: Path, added: list[str]) -> None:
    """A tokenizer.json that knows a few words and the added tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    names = ["<unk>", "<s>", "</s>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in added])
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def write_language(folder: Path, vocab: int, seed: int, pickled: bool = False) -> None:
    """A language model as transformers shards it: an index, its files, a config."""
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_queries.language(vocab, seed)
    tensors = llama.publish(model.state_dict(), model.params)
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    places, shards = {}, 2
    for i in range(shards):
        file = f"{stem}-{i + 1:05}-of-{shards:05}.{suffix}"
        part = {name: tensors[name] for name in sorted(tensors)[i::shards]}
        torch.save(part, folder / file) if pickled else save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    config = {"vocab_size": vocab, **LANGUAGE_CONFIG}
    (folder / "config.json").write_text(json.dumps(config))


def configured(tensors: dict, path: Path, config: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"config": json.dumps(config)})


def write_seed_x(
    folder: Path, vit: bool = True, variant: str = "seed_x", pickled: bool = False
) -> str:
    """A bundle; returns the name of its language model for a picker."""
    vocab = 3 + len(WORDS) + len(SEED_X_ADDED)
    write_language(folder / variant / "llm", vocab, seed=0, pickled=pickled)
    write_words(folder / variant / "llm" / "tokenizer.json", SEED_X_ADDED)
    agent = tiny_queries.agent()
    tensors = seed_x.publish_agent(agent.state_dict(), AGENT)
    configured(tensors, folder / variant / "agent" / "model.safetensors", POOLS)
    if vit:
        net = tiny_queries.vit()
        config = {"heads": 2, "image_size": VIT.image_size}
        tensors = seed_x.publish_vit(net.state_dict(), VIT)
        configured(tensors, folder / "QwenViT" / "qwen_vit_G.safetensors", config)
    index = "pytorch_model.bin" if pickled else "model.safetensors"
    return f"{folder.name}/{variant}/llm/{index}.index.json"


def adapter_tensors() -> dict[str, torch.Tensor]:
    return seed_x.publish_adapter(tiny_queries.adapter().state_dict(), ADAPTER)


ADAPTER_CONFIG = {"resampler": {"dim_head": ADAPTER.head_size}}


def write_dreamllm(folder: Path, context: int = 12, seed: int = 7) -> str:
    """A repository whose projector gives a context of this width, its plugin files pickled as
    published. CLIP's head size is the published one, so its config says nothing."""
    vocab = 3 + len(WORDS) + len(DREAM_ADDED)
    write_language(folder, vocab, seed)
    write_words(folder / "tokenizer.json", DREAM_ADDED)
    clip = dreamllm.publish_vision(tiny_queries.clip().state_dict(), CLIP)
    configured(
        clip,
        folder / "clip_vision_embedding.safetensors",
        {"vision_config": {"num_attention_heads": CLIP.heads}},
    )
    queries = tiny_queries.dream_queries().state_dict()
    torch.save(
        dreamllm.publish_queries(queries, DreamQueriesParams(QUERIES, 32)),
        folder / "dream_embedding.bin",
    )
    params = DreamProjectorParams((32, context))
    projector = tiny_queries.randomise(DreamProjector(params), 6)
    head = dreamllm.publish_projector(projector.state_dict(), params)
    torch.save(
        {**head, "vae.encoder.conv_in.bias": torch.zeros(2)}, folder / "stable_diffusion_head.bin"
    )
    return f"{folder.name}/model.safetensors.index.json"
