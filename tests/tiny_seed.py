"""Tiny random SEED tokenizers in the published layouts, and a small diffusion model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import randomise

from mmgen_core.checkpoints import read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.conditioners.reverse_qformer import DetokenizerParams
from mmgen_core.models.decoder import Decoder, DecoderParams
from mmgen_core.models.qformer import QFormerParams
from mmgen_core.models.vision_transformer import VisionTransformer, VisionTransformerParams
from mmgen_core.systems import identify, seed_llama
from mmgen_core.systems.seed_layout import VISION_PREFIX, publish_tokenizer, publish_vision
from mmgen_core.tokenizers.seed import SeedTokenizer, SeedTokenizerParams, codebook_fingerprint
from mmgen_core.tokenizers.seed_text import BEGIN, END, code_name

SD1_WIDTH, UNCLIP_WIDTH = 768, 1024
CONFIG = {"vit_num_heads": 2, "num_attention_heads": 2}


def vision_params() -> VisionTransformerParams:
    return VisionTransformerParams(depth=2, width=32, heads=2, hidden=64, patch=14, grid=2)


def tokenizer_params(generation: int, vocab: int = 64, width: int = 0) -> SeedTokenizerParams:
    qformer = QFormerParams(2, 24, 2, 48, 32, 32, (0,), causal=True)
    if generation == 1:
        reverse = QFormerParams(2, 24, 2, 48, 77, 24, (0,))
        detokenizer = DetokenizerParams(32, 24, 1, 96, width or SD1_WIDTH, reverse=reverse)
    else:
        down = (256, 128, 32)
        detokenizer = DetokenizerParams(32, 24, 1, 96, width or UNCLIP_WIDTH, down=down)
    return SeedTokenizerParams(qformer, vocab, 8, detokenizer, generation)


def vision(seed: int = 0) -> VisionTransformer:
    return randomise(VisionTransformer(vision_params()), seed)


def tokenizer(generation: int, seed: int = 1, **sizes) -> SeedTokenizer:
    """Codes are put where pictures fall, which are spread out, so that pictures differ in them."""
    module = randomise(SeedTokenizer(tokenizer_params(generation, **sizes)), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        states = module.states(vision()(torch.randn(64, 3, 28, 28, generator=generator)))
        z, last = module.code_inputs(states).flatten(0, 1), module.encode_task_layer[2]
        last.weight /= z.std(0)[:, None]
        last.bias.copy_((last.bias - z.mean(0)) / z.std(0))
        z = module.code_inputs(states).flatten(0, 1)
        rows = torch.randperm(len(z), generator=generator)[: module.params.vocab]
        module.embedding.weight.copy_(z[rows])
    if module.params.detokenizer.reverse is not None:  # what is read outweighs the queries
        for layer in module.detokenizer.reverse.layers:
            if layer.cross is not None:
                layer.cross.out.weight *= 20
    module.fingerprint = codebook_fingerprint(module.embedding.weight)
    return module


def tokenizer_tensors(generation: int, seed: int = 1, **sizes) -> dict[str, torch.Tensor]:
    module = tokenizer(generation, seed, **sizes)
    return publish_tokenizer(module.state_dict(), module.params)


def vision_tensors() -> dict[str, torch.Tensor]:
    return publish_vision(vision().state_dict(), vision_params())


def complete_tensors(generation: int, **sizes) -> dict[str, torch.Tensor]:
    """Tokenizer and vision transformer in one file, as the demo has them."""
    inner = {VISION_PREFIX + key: value for key, value in vision_tensors().items()}
    return tokenizer_tensors(generation, **sizes) | inner


def write_unet(path: Path, context: int = 128, channels: int = 16) -> Path:
    """A small U-Net in diffusers' layout with its config, random."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=context,
        attention_head_dim=2,
    )
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    config |= {"scaling_factor": 3.0, "prediction_type": "v_prediction"}
    save_file(unet.state_dict(), path, {"config": json.dumps(config)})
    return path


CODES = 64  # of the tiny tokenizers
TEXTS = (
    "a red fox in the snow",
    "what is this? a blue bird",
    "make the fox blue",
    "USER: ASSISTANT:",
)


def write_text_tokenizer(folder: Path) -> int:
    """A tiny sentencepiece model with SEED's added tokens beside it; returns the vocabulary."""
    from sentencepiece import SentencePieceTrainer

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tokenizer.model").open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 4),
            model_writer=file,
            vocab_size=60,
            model_type="bpe",
            byte_fallback=False,
            hard_vocab_limit=False,
            user_defined_symbols=["\n"],
            minloglevel=2,
        )
    from sentencepiece import SentencePieceProcessor

    first = len(SentencePieceProcessor(model_file=str(folder / "tokenizer.model")))
    added = {code_name(i): first + i for i in range(CODES)}
    added |= {BEGIN: first + CODES, END: first + CODES + 1}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return first + CODES + 2


def write_llama(folder: Path, name: str = "model.safetensors", seed: int = 3, **config) -> Path:
    """A tiny SEED-LLaMA with its text tokenizer in a folder of its own."""
    vocab = write_text_tokenizer(folder)
    blocks = (vocab - CODES - 2, CODES, 2)
    params = DecoderParams(2, 32, 4, 4, 48, vocab, head_blocks=blocks)
    tensors = seed_llama.publish(randomise(Decoder(params), seed).state_dict(), params)
    tensors["lm_head.weight"][vocab - 2] *= 8  # begins pictures often
    settings = {"num_attention_heads": 4, "max_position_embeddings": 400, **config}
    save_file(tensors, folder / name, {"config": json.dumps(settings)})
    return folder / name


def llama(folder: Path, **config) -> tuple:
    """A tiny SEED-LLaMA and its system."""
    checkpoint = read_checkpoint(write_llama(folder, **config))
    match = identify(checkpoint, "next-token model")
    return build(match, checkpoint), match.architecture.system(match, checkpoint)
