"""Next-token models in the real server: drawing, previews, stories, answers, bad input."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tiny_next_token as tiny_models
import torch
from PIL import Image
from prompts import fails, node
from safetensors.torch import load_file, save_file

FILE = "tiny_chameleon.safetensors"


@pytest.fixture(scope="module")
def chameleon(host, models) -> str:
    """A tiny model with its text tokenizer, and what goes wrong with such files."""
    path = tiny_models.write_chameleon(models)
    tensors = load_file(path)
    metadata = {"config": json.dumps(tiny_models.CONFIG)}
    save_file(tensors, models / "lonely_chameleon.safetensors", metadata)
    other = tiny_models.vqgan_tensors(codes=20)
    save_file(other, models / "other_vqgan.safetensors", {"config": '{"norm_num_groups": 4}'})
    Image.fromarray(np.full((40, 24, 3), 90, np.uint8)).save(host.input_dir / "grey.png")
    return FILE


def graph(text: str = "a red fox", file: str = FILE, tokenizer: str = FILE, **settings) -> dict:
    sampler = {
        "size": "the model's own",
        "width": 512,
        "height": 512,
        "seed": 0,
        "guidance": 3.0,
        "image_guidance": 1.2,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 0.9,
        "batch_size": 1,
    }
    return {
        "model": node("MMGenLoadNextTokenModel", model_name=file, dtype="auto"),
        "tokenizer": node("MMGenLoadImageTokenizer", tokenizer_name=tokenizer, dtype="auto"),
        "prompt": node("MMGenMultimodalPrompt", text=text, system_prompt=""),
        "sampler": node(
            "MMGenTokenImageSampler",
            model=["model", 0],
            tokenizer=["tokenizer", 0],
            prompt=["prompt", 0],
            **(sampler | settings),
        ),
        "decode": node("MMGenDecodeTokens", tokenizer=["tokenizer", 0], tokens=["sampler", 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="test"),
    }


def with_picture(prompt: dict) -> dict:
    prompt["picture"] = node("LoadImage", image="grey.png")
    prompt["prompt"]["inputs"]["images.image0"] = ["picture", 0]
    return prompt


def drawn(host, prompt: dict) -> list[np.ndarray]:
    pictures = host.images(host.run(prompt))
    return [np.asarray(Image.open(io.BytesIO(png)), np.float32) for png in pictures]


def test_batch_equals_single_runs_and_speculation_changes_nothing(host, chameleon):
    pair = drawn(host, graph(batch_size=2, seed=5))
    assert len(pair) == 2 and pair[0].shape == (16, 16, 3)
    single = drawn(host, graph(seed=6))[0]
    assert np.abs(pair[1] - single).max() <= 1
    fast = drawn(host, graph(batch_size=2, seed=5, speculation="same picture", window=4))
    assert all(np.abs(a - b).max() <= 1 for a, b in zip(pair, fast, strict=True))
    assert np.abs(pair[0] - pair[1]).max() > 8


def test_pictures_in_the_prompt_count(host, chameleon):
    plain = drawn(host, graph(seed=3))[0]
    shown = drawn(host, with_picture(graph("<image> a red fox", seed=3)))[0]
    assert np.abs(plain - shown).max() > 8


def test_previews_paint_row_by_row(host, chameleon):
    prompt = graph(seed=11)
    events = host.watch(prompt)
    assert events.of("execution_success")
    assert events.previews


def test_precisions(host, chameleon):
    for dtype in ("bf16", "int8"):
        prompt = graph(seed=2)
        prompt["model"]["inputs"]["dtype"] = dtype
        assert drawn(host, prompt)[0].shape == (16, 16, 3)


def story(**settings) -> dict:
    prompt = graph("a story of two birds")
    for name in ("sampler", "decode", "save"):
        del prompt[name]
    inputs = {
        "seed": 0,
        "guidance": 3.0,
        "image_guidance": 1.2,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 0.9,
        "text_temperature": 1.0,
        "text_top_k": 0,
        "text_top_p": 0.9,
        "repetition_penalty": 1.2,
        "max_text_tokens": 60,
        "size": "the model's own",
        "width": 512,
        "height": 512,
    }
    prompt["sampler"] = node(
        "MMGenInterleavedSampler",
        model=["model", 0],
        tokenizer=["tokenizer", 0],
        prompt=["prompt", 0],
        **(inputs | settings),
    )
    prompt["text"] = node("PreviewAny", source=["sampler", 0])
    prompt["save"] = node("SaveImage", images=["sampler", 1], filename_prefix="test")
    return prompt


def test_a_story_has_as_many_pictures_as_marks(host, chameleon):
    counts = set()
    for seed in range(4):
        result = host.run(story(seed=seed))
        text = json.dumps(result.outputs)
        marks = text.count("<image ")
        assert len(host.images(result)) == marks
        counts.add(marks)
    assert max(counts) >= 1


def answer(text: str, **clip) -> dict:
    prompt = graph()
    for name in ("prompt", "sampler", "decode", "save"):
        del prompt[name]
    prompt["clip"] = node(
        "MMGenNextTokenClip", model=["model", 0], tokenizer=["tokenizer", 0], **clip
    )
    prompt["picture"] = node("LoadImage", image="grey.png")
    prompt["ask"] = node(
        "TextGenerate",
        clip=["clip", 0],
        prompt=text,
        image=["picture", 0],
        max_length=12,
        sampling_mode="off",
        thinking=False,
        use_default_template=True,
    )
    prompt["show"] = node("PreviewAny", source=["ask", 0])
    return prompt


def test_questions_go_through_generate_text(host, chameleon):
    result = host.run(answer("what is this?"))
    assert result.outputs["show"]["text"]


def test_bad_input_is_named(host, chameleon):
    fails(host, graph(file="lonely_chameleon.safetensors"), "tokenizer.json")
    fails(host, graph(tokenizer="other_vqgan.safetensors"), "24 image codes")
    fails(host, graph(size="64 x 64"), "16 x 16, not 64 x 64")
    fails(host, graph("  "), "empty")
    fails(host, graph("<image> what"), "Connect the picture")
    fails(host, graph("red fox " * 60), "120")
    fails(host, graph(file="tiny_var.safetensors"), "next-token model")
    fails(host, graph(tokenizer="tiny_var.safetensors"), "image tokenizer")
    assert drawn(host, graph(seed=1))[0].shape == (16, 16, 3)  # the server goes on


def test_a_weight_that_is_no_number_ends_the_run(host, chameleon, models):
    tensors = load_file(models / FILE)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], torch.nan)
    metadata = {"config": json.dumps(tiny_models.CONFIG)}
    save_file(tensors, models / "nan_chameleon.safetensors", metadata)
    (models / "nan_chameleon.tokenizer.json").write_bytes(
        (models / "tiny_chameleon.tokenizer.json").read_bytes()
    )
    fails(host, graph(file="nan_chameleon.safetensors"), "not finite")


def test_interrupt_stops_within_a_picture(host, chameleon):
    asked = []

    def interrupt(events):
        states = [data["nodes"].get("sampler") for data in events.of("progress_state")]
        if not asked and any(state and state["value"] >= 1 for state in states):
            asked.append(True)
            host.client.interrupt()

    prompt = graph(batch_size=1024, seed=77, guidance=2.5)
    events = host.watch(prompt, on_message=interrupt)
    assert asked and events.kinds()[-1] == "execution_interrupted"
    states = [data["nodes"].get("sampler") for data in events.of("progress_state")]
    assert max(state["value"] for state in states if state) < 16
    assert drawn(host, graph(seed=78))[0].shape == (16, 16, 3)
