"""Tiny random Show-o and Transfusion models in their layouts, with text tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import tiny
import torch
from safetensors.torch import save_file

from mmgen_core.checkpoints.files import Checkpoint
from mmgen_core.models.decoder import DecoderParams
from mmgen_core.models.flow_transformer import FlowTransformer, FlowTransformerParams
from mmgen_core.models.latent_patches import PatchLayerParams
from mmgen_core.models.paper_transfusion import PaperTransfusion, PaperTransfusionParams
from mmgen_core.models.show_o import SPECIALS, ShowO, ShowOParams
from mmgen_core.systems import show_o, transfusion
from mmgen_core.tokenizers.lookup_free import (
    LevelParams,
    LookupFreeParams,
    LookupFreeTokenizer,
    lookup_free_fingerprint,
)
from mmgen_core.training.show_o import END, train_text_tokenizer

BITS, SIDE, STRIDE, PROMPT = 5, 4, 4, 16
TEXTS = [
    "a red heart, noto style",
    "a green tree in fluent style",
    "USER: \nWhat is this? ASSISTANT:",
]
TOKENIZER_CONFIG = {"norm_num_groups": 4}


def tokenizer_params(bits: int = BITS) -> LookupFreeParams:
    """Stride 4, so that 16 px pictures have 4 x 4 codes."""
    encoder = (LevelParams(8, 1), LevelParams(8, 0), LevelParams(16, 1))
    decoder = (LevelParams(8, 1), LevelParams(8, 1), LevelParams(16, 1))
    return LookupFreeParams(bits, 8, encoder, decoder, 4)


def tokenizer(seed: int = 0, bits: int = BITS) -> LookupFreeTokenizer:
    module = tiny.randomise(LookupFreeTokenizer(tokenizer_params(bits)), seed)
    module.fingerprint = lookup_free_fingerprint(module.state_dict())
    return module


def write_tokenizer(
    folder: Path, name: str = "tiny_magvit", seed: int = 0, bits: int = BITS
) -> Path:
    module = tokenizer(seed, bits)
    tensors = show_o.publish_tokenizer(module.state_dict(), module.params)
    return tiny.write(folder / f"{name}.safetensors", tensors, TOKENIZER_CONFIG)


def decoder_params(text_vocab: int, codes: int) -> DecoderParams:
    return DecoderParams(
        2,
        32,
        4,
        4,
        64,
        text_vocab + SPECIALS + codes + 1,
        head_blocks=(text_vocab + SPECIALS, codes, 1),
        norm="layer",
        qk_norm="shared",
        rotary_share=0.5,
        gated=False,
        parallel=True,
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
    )


def show_o_params(text_vocab: int = 300, clip_width: int = 0) -> ShowOParams:
    codes = 2**BITS
    return ShowOParams(
        decoder_params(text_vocab, codes),
        text_vocab,
        codes,
        image_tokens=SIDE**2,
        prompt_tokens=PROMPT,
        end_of_text=0,
        clip_width=clip_width,
    )


def show_o_model(seed: int = 1, **sizes) -> ShowO:
    """Its scores differ clearly, and texts matter."""
    module = tiny.randomise(ShowO(show_o_params(**sizes)), seed)
    module.decoder.embed.weight.data *= 4
    module.decoder.head[1].weight.data *= 6
    return module


def config_of(params: ShowOParams) -> dict:
    return {
        "llm_vocab_size": params.text_vocab,
        "codebook_size": params.codes,
        "num_vq_tokens": params.image_tokens,
        "max_seq_length": params.prompt_tokens,
        "eos_token_id": params.end_of_text,
    }


def write_show_o(folder: Path, name: str = "tiny_show_o", clip_width: int = 0, **config) -> Path:
    """A model file, and the text tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = train_text_tokenizer(TEXTS, 280, folder / f"{name}.tokenizer.json")
    assert text.id_of(END) == 0
    model = show_o_model(text_vocab=len(text), clip_width=clip_width)
    tensors = show_o.publish_model(model.state_dict(), model.params)
    return tiny.write(folder / f"{name}.safetensors", tensors, config_of(model.params) | config)


def flow_model(seed: int = 2, text_vocab: int = 256, **kind) -> FlowTransformer:
    kinds = (PatchLayerParams(4, shape=(3, 2), **kind),)
    module = FlowTransformer(FlowTransformerParams(3, 32, 2, 16, 48, text_vocab, kinds))
    tiny.randomise(module, seed)
    module.time_frequencies.copy_(torch.linspace(-1, 1, 16))
    module.rotary_frequencies.copy_(10000.0 ** -torch.linspace(0, 0.875, 8))
    return module


def write_flow(folder: Path, name: str = "tiny_flow", **kind) -> Path:
    module = flow_model(**kind)
    tensors = transfusion.publish_flow(module.state_dict(), module.params)
    config = {"modality_default_shape": [3, 2]}
    return tiny.write(folder / f"{name}.safetensors", tensors, config)


def paper_model(
    seed: int = 3, text_vocab: int = 256, unet: tuple[int, ...] = ()
) -> PaperTransfusion:
    trunk = DecoderParams(2, 32, 2, 2, 64, text_vocab + 3, head_size=16)
    p = PaperTransfusionParams(
        trunk, 4, 2, 16, text_vocab, text_vocab + 1, text_vocab + 2, side=4, unet=unet
    )
    return tiny.randomise(PaperTransfusion(p), seed)


def write_paper(folder: Path, name: str = "tiny_paper", unet: tuple[int, ...] = ()) -> Path:
    module = paper_model(unet=unet)
    tensors = transfusion.publish_paper(module.state_dict(), module.params)
    config = {"num_attention_heads": 2, "patch_size": 2, "latent_side": 4}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, {"config": json.dumps(config)})
    return path


def checkpoint(tensors: dict, config: dict) -> Checkpoint:
    return tiny.checkpoint_of(tensors, config)
