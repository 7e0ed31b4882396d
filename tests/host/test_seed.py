"""SEED in the real server: tokens and the pictures stock samplers make of them, bad input."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest
import tiny_sd21
import tiny_seed
import torch
from PIL import Image
from prompts import fails, ids_of, node, pixels, read
from safetensors.torch import save_file

from mmgen_core.commands.client import WorkflowError
from mmgen_core.commands.places import ROOT
from mmgen_core.commands.workflows import needs_other_models

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("seed*.json"))
SD15, UNCLIP = "tiny_sd15_seed.safetensors", "tiny_unclip.safetensors"


@pytest.fixture(scope="module")
def seed(host, models):
    """Tiny tokenizers of both generations in their published files, SD checkpoints in theirs, a
    tiny SEED-LLaMA, two pictures."""
    config = {"config": json.dumps(tiny_seed.CONFIG)}
    for generation in (1, 2):
        tensors = tiny_seed.tokenizer_tensors(generation, seed=generation)
        if generation == 1:
            first = {k: v for k, v in tensors.items() if k.startswith(("Qformer.", "ln_"))}
            torch.save({"model": first}, models / "tiny_qformer.pth")
            tensors = {k: v for k, v in tensors.items() if k not in first}
            torch.save({"model": tensors}, models / "tiny_seed1.pth")
        else:
            torch.save(tensors | {"unlisted": torch.ones(2)}, models / "tiny_seed2.pt")
            save_file(tensors, models / "tiny_seed2.safetensors", config)
    for name in ("tiny_seed1", "tiny_seed2", "tiny_qformer"):
        (models / f"{name}.json").write_text(json.dumps(tiny_seed.CONFIG))
    save_file(tiny_seed.vision_tensors(), models / "tiny_vit.safetensors", config)
    save_file(
        tiny_seed.complete_tensors(1, width=128), models / "tiny_seed_demo.safetensors", config
    )
    tiny_seed.write_unet(models / "tiny_unet.safetensors")
    tiny_seed.write_llama(models / "tiny_seed_llama")
    checkpoints = host.models_dir / "checkpoints"
    tiny_sd21.write_sd15(checkpoints / SD15)
    tiny_sd21.write(checkpoints / UNCLIP)
    random = np.random.default_rng(0)
    for name in ("first", "second"):
        noise = random.integers(0, 255, (28, 28, 3), np.uint8)
        Image.fromarray(noise).save(host.input_dir / f"{name}.png")
    Image.new("RGB", (64, 64), (40, 160, 90)).save(host.input_dir / "example.png")
    yield
    (checkpoints / SD15).unlink()
    (checkpoints / UNCLIP).unlink()


def loader(generation: int, **other) -> dict:
    names = {
        1: {"tokenizer_name": "tiny_seed1.pth", "qformer_name": "tiny_qformer.pth"},
        2: {"tokenizer_name": "tiny_seed2.pt", "qformer_name": "none"},
    }[generation]
    settings = {"vision_name": "tiny_vit.safetensors", "dtype": "auto", "codes_dtype": "fp32"}
    return node("MMGenLoadSeedTokenizer", **(settings | names | other))


def graph(
    generation: int, picture: str = "first", cfg: float = 4.0, seed: int = 1, **other
) -> dict:
    """A picture to tokens, to a condition, to a picture of a stock KSampler."""
    kind = "CheckpointLoaderSimple" if generation == 1 else "unCLIPCheckpointLoader"
    prompt = {
        "tokenizer": loader(generation, **other),
        "sd": node(kind, ckpt_name=SD15 if generation == 1 else UNCLIP),
        "picture": node("LoadImage", image=f"{picture}.png"),
        "tokens": node(
            "MMGenEncodeSeed",
            tokenizer=["tokenizer", 0],
            image=["picture", 0],
            resize="bilinear",
        ),
        "words": node("CLIPTextEncode", text="", clip=["sd", 1]),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler",
            model=["sd", 0],
            positive=["positive", 0],
            negative=["words", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=2,
            cfg=cfg,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["sd", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="seed"),
    }
    made = {"tokenizer": ["tokenizer", 0], "tokens": ["tokens", 0], "model": ["sd", 0]}
    if generation == 1:
        prompt["positive"] = node("MMGenSeedCondition", **made)
    else:
        prompt["embedding"] = node("MMGenSeedEmbedding", **made)
        prompt["positive"] = node(
            "unCLIPConditioning",
            conditioning=["words", 0],
            clip_vision_output=["embedding", 0],
            strength=1.0,
            noise_augmentation=0.0,
        )
    return prompt


def drawn(host, prompt: dict) -> list[np.ndarray]:
    pictures = host.images(host.run(prompt))
    return [np.asarray(Image.open(io.BytesIO(png)), np.float32) for png in pictures]


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    return np.abs(a - b).max() > 1


# Stock models draw what the tokens say


@pytest.mark.parametrize("generation", [1, 2])
def test_tokens_make_the_picture(host, seed, generation):
    first = drawn(host, graph(generation))[0]
    assert first.shape == (64, 64, 3) and first.std() > 2
    assert not differ(first, drawn(host, graph(generation, picture="first", codes_dtype="fp32"))[0])
    assert differ(first, drawn(host, graph(generation, picture="second"))[0])
    assert differ(first, drawn(host, graph(generation, seed=2))[0])


@pytest.mark.parametrize("generation", [1, 2])
def test_negative_branch_is_used(host, seed, generation):
    assert differ(
        drawn(host, graph(generation, cfg=1.0))[0], drawn(host, graph(generation, cfg=6.0))[0]
    )


@pytest.mark.parametrize("generation", [1, 2])
def test_equal_tokens_equal_pictures(host, seed, generation):
    """Tokens through a file, and set by hand to what they are, draw the same."""
    plain = drawn(host, graph(generation))[0]
    prompt = graph(generation)
    prompt["same"] = node(
        "MMGenMixSeedTokens",
        tokenizer=["tokenizer", 0],
        tokens=["tokens", 0],
        other_tokens=["tokens", 0],
        share=1.0,
        places="0-15",
    )
    target = "positive" if generation == 1 else "embedding"
    prompt[target]["inputs"]["tokens"] = ["same", 0]
    assert not differ(plain, drawn(host, prompt)[0])
    prompt["same"] = node(
        "MMGenEditSeedTokens",
        tokenizer=["tokenizer", 0],
        tokens=["tokens", 0],
        places="0-20",
        codes="5",
    )
    assert differ(plain, drawn(host, prompt)[0])


def test_mixed_tokens_draw_another_picture(host, seed):
    prompt = graph(1)
    prompt["other"] = node("LoadImage", image="second.png")
    encode = prompt["tokens"]["inputs"]
    prompt["other_tokens"] = node("MMGenEncodeSeed", **(encode | {"image": ["other", 0]}))
    prompt["mix"] = node(
        "MMGenMixSeedTokens",
        tokenizer=["tokenizer", 0],
        tokens=["tokens", 0],
        other_tokens=["other_tokens", 0],
        share=0.5,
        places="all",
    )
    prompt["positive"]["inputs"]["tokens"] = ["mix", 0]
    half = drawn(host, prompt)[0]
    for picture in ("first", "second"):
        assert differ(half, drawn(host, graph(1, picture=picture))[0])


def test_several_pictures(host, seed):
    """SEED-1: one conditioning for as many latents; SEED-2: the nodes behind run for each."""
    for generation in (1, 2):
        prompt = graph(generation)
        prompt["other"] = node("LoadImage", image="second.png")
        prompt["both"] = node("ImageBatch", image1=["picture", 0], image2=["other", 0])
        prompt["tokens"]["inputs"]["image"] = ["both", 0]
        prompt["latent"]["inputs"]["batch_size"] = 2 if generation == 1 else 1
        pair = drawn(host, prompt)
        assert len(pair) == 2 and differ(*pair)


def test_decoding_needs_no_vision_transformer(host, seed):
    prompt = graph(2)
    prompt["lean"] = loader(2, vision_name="none")
    prompt["embedding"]["inputs"]["tokenizer"] = ["lean", 0]
    assert not differ(drawn(host, graph(2))[0], drawn(host, prompt)[0])


def test_small_diffusion_model(host, seed):
    prompt = graph(1, vision_name="in the tokenizer's file", qformer_name="none")
    prompt["tokenizer"]["inputs"]["tokenizer_name"] = "tiny_seed_demo.safetensors"
    prompt["sd"] = node("MMGenLoadSmallDiffusion", model_name="tiny_unet.safetensors", dtype="auto")
    prompt["words"] = node("ConditioningZeroOut", conditioning=["positive", 0])
    name = {"tokenizer_name": "mmgen_demo_vae.safetensors", "dtype": "auto"}
    prompt["vae"] = node("MMGenLoadImageTokenizer", **name)
    prompt["decode"]["inputs"]["vae"] = ["vae", 1]
    assert drawn(host, prompt)[0].shape == (64, 64, 3)
    prompt["sd"]["inputs"]["model_name"] = "tiny_vit.safetensors"
    fails(host, prompt, "tiny_vit.safetensors is no U-Net")


# SEED-LLaMA


def llama(picture: str | None = None, **settings) -> dict:
    prompt = graph(2)
    sampler = {"size": "the model's own", "seed": 0, "guidance": 1.0, "image_guidance": 1.0}
    sampler |= {"width": 512, "height": 512}
    sampler |= {"temperature": 1.0, "top_k": 50, "top_p": 0.9, "batch_size": 1}
    name = "tiny_seed_llama/model.safetensors"
    prompt["model"] = node("MMGenLoadNextTokenModel", model_name=name, dtype="fp32")
    prompt["prompt"] = node("MMGenMultimodalPrompt", text="a red fox", system_prompt="")
    if picture:
        prompt["prompt"]["inputs"]["images.image0"] = ["picture", 0]
        prompt["picture"]["inputs"]["image"] = f"{picture}.png"
    prompt["tokens"] = node(
        "MMGenTokenImageSampler",
        model=["model", 0],
        tokenizer=["tokenizer", 0],
        prompt=["prompt", 0],
        **(sampler | settings),
    )
    return prompt


def test_llama_draws_through_unclip(host, seed):
    one = drawn(host, llama(seed=3))[0]
    assert not differ(one, drawn(host, llama(seed=2, batch_size=2))[1])
    assert differ(one, drawn(host, llama(seed=4))[0])
    assert differ(one, drawn(host, llama("first", seed=3))[0])


def test_llama_answers(host, seed):
    prompt = llama("second")
    for name in ("tokens", "embedding", "positive", "sampler", "decode", "save", "sd", "latent"):
        prompt.pop(name, None)
    prompt.pop("words")
    clip = {"model": ["model", 0], "tokenizer": ["tokenizer", 0]}
    prompt["clip"] = node("MMGenNextTokenClip", **clip)
    prompt["write"] = node(
        "TextGenerate",
        clip=["clip", 0],
        image=["picture", 0],
        prompt="what is this?",
        max_length=8,
        sampling_mode="off",
    )
    prompt["show"] = node("PreviewAny", source=["write", 0])
    for name in ("prompt",):
        prompt.pop(name)
    assert host.watch(prompt).of("execution_success")


# Templates


def swapped(prompt: dict) -> dict:
    names = {
        "MMGenLoadNextTokenModel": {
            "model_name": "tiny_seed_llama/model.safetensors",
            "dtype": "fp32",
        },
        "CheckpointLoaderSimple": {"ckpt_name": SD15},
        "unCLIPCheckpointLoader": {"ckpt_name": UNCLIP},
        "KSampler": {"steps": 2},
        "EmptyLatentImage": {"width": 64, "height": 64},
    }
    public = {
        "seed_quantizer.pt": "tiny_seed2.pt",
        "seed_tokenizer.pth": "tiny_seed1.pth",
        "causal_qformer.pth": "tiny_qformer.pth",
        "eva_vit_g.pth": "tiny_vit.safetensors",
    }
    for entry in prompt.values():
        inputs = entry["inputs"]
        inputs |= {k: v for k, v in names.get(entry["class_type"], {}).items() if k in inputs}
        for key, value in inputs.items():
            if isinstance(value, str):
                inputs[key] = public.get(value, value)
    return prompt


PUBLIC = [name for name in TEMPLATES if "seed_llama" in name or "picture_to" in name]


@pytest.mark.parametrize("name", PUBLIC)
def test_template_names_what_is_missing(host, name):
    with pytest.raises(WorkflowError) as caught:
        host.client.run(read(name), whole=True)
    assert caught.value.missing_files
    assert needs_other_models(caught.value), "the demo command would not skip it"


@pytest.mark.parametrize("name", PUBLIC)
def test_template_draws_with_files_in_place(host, seed, name):
    prompt, saved = swapped(read(name)), []
    for seed_number in range(5):  # a story may do without pictures
        for told in ids_of(prompt, "MMGenInterleavedSampler"):
            prompt[told]["inputs"]["seed"] = seed_number
        result = host.run(prompt)
        saved = [file for file in host.image_files(result) if file.kind == "output"]
        if saved or not ids_of(prompt, "MMGenInterleavedSampler"):
            break
    for file in saved:
        assert pixels(host.client.download(file)).std() > 2
    assert saved or not ids_of(prompt, "SaveImage")


# Bad input


@pytest.fixture
def server_goes_on(host, seed):
    yield
    assert drawn(host, graph(1, seed=os.getpid()))


def test_condition_of_the_other_generation(host, seed, server_goes_on):
    prompt = graph(2)
    prompt["sd"] = node("CheckpointLoaderSimple", ckpt_name=SD15)
    fails(
        host,
        prompt,
        r"tiny_seed2.pt \(SEED-2\) writes an image embedding",
        "Stable Diffusion 1.x",
        "unCLIPCheckpointLoader",
        "SEED-1 tokenizer",
    )
    prompt = graph(1)
    prompt["sd"] = node("unCLIPCheckpointLoader", ckpt_name=UNCLIP)
    fails(host, prompt, r"\(SEED-1\) writes 77 x 768", "SD21UNCLIP", "1.4 or 1.5")
    prompt = graph(1)
    prompt["positive"]["inputs"]["tokenizer"] = ["second", 0]
    prompt["second"] = loader(2)
    fails(host, prompt, r"\(SEED-2\)", "Stable Diffusion 1.x", "SEED-1 tokenizer")


def test_tokens_of_the_other_tokenizer(host, seed, server_goes_on):
    prompt = graph(1)
    prompt["second"] = loader(2)
    prompt["tokens"]["inputs"]["tokenizer"] = ["second", 0]
    fails(host, prompt, "belong to the codebook seed", "the tokenizer")


def test_wrong_files(host, seed, models, server_goes_on):
    fails(host, graph(1, qformer_name="none"), "tiny_seed1.pth", "causal_qformer.pth")
    fails(host, graph(2, vision_name="tiny_seed2.pt"), "a vision transformer is needed")
    fails(host, graph(2, tokenizer_name="tiny_vae.safetensors"), "a SEED tokenizer is needed")
    fails(host, graph(2, vision_name="none"), "tiny_seed2.pt.*only decode", "eva_vit_g.pth")
    tensors = tiny_seed.tokenizer_tensors(2)
    del tensors["image_down.2.weight"]
    torch.save(tensors, models / "lacks_seed2.pt")
    (models / "lacks_seed2.json").write_text(json.dumps(tiny_seed.CONFIG))
    fails(host, graph(2, tokenizer_name="lacks_seed2.pt"), "lacks_seed2.pt")


def test_wrong_places_and_codes(host, seed, server_goes_on):
    prompt = graph(1)
    prompt["edit"] = node(
        "MMGenEditSeedTokens",
        tokenizer=["tokenizer", 0],
        tokens=["tokens", 0],
        places="0-40",
        codes="5",
    )
    prompt["positive"]["inputs"]["tokens"] = ["edit", 0]
    fails(host, prompt, "0-40", "0-31")
    prompt["edit"]["inputs"] |= {"places": "0", "codes": "fox"}
    fails(host, prompt, "'fox' is no code", "0 to 63")


def test_nodes_for_pixels(host, seed, server_goes_on):
    prompt = graph(1)
    tokens = {"tokenizer": ["tokenizer", 0], "tokens": ["tokens", 0]}
    prompt["decode"] = node("MMGenDecodeTokens", **tokens)
    fails(host, prompt, "meanings, not pixels", "SEED Tokens to Conditioning")
    prompt = graph(1)
    name = {"tokenizer_name": "tiny_vae.safetensors", "dtype": "auto"}
    prompt["tokenizer"] = node("MMGenLoadImageTokenizer", **name)
    fails(host, prompt, "tiny_vae.safetensors", "Load SEED Tokenizer")
