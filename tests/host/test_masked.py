"""Show-o and Transfusion in the real server: drawing, redrawing, widening, answers, bad input."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tiny_masked
import torch
from PIL import Image
from prompts import fails, node
from safetensors.torch import load_file, save_file

MODEL, TOKENIZER = "tiny_show_o.safetensors", "tiny_magvit.safetensors"


@pytest.fixture(scope="module")
def show_o(host, models) -> None:
    """Tiny models, and what goes wrong with such files."""
    tiny_masked.write_tokenizer(models)
    tiny_masked.write_tokenizer(models, "other_magvit", bits=6)
    tiny_masked.write_show_o(models)
    tiny_masked.write_show_o(models, "clip_show_o", clip_width=6)
    tiny_masked.write_show_o(models, "strange_show_o", codebook="another one")
    tiny_masked.write_flow(models)
    tiny_masked.write_paper(models)
    lonely = tiny_masked.write_show_o(models, "lonely_show_o")
    (models / "lonely_show_o.tokenizer.json").unlink()
    tensors = load_file(lonely)
    tensors["showo.model.final_layernorm.weight"][0] = torch.nan
    words = (models / "tiny_show_o.tokenizer.json").read_bytes()
    config = {"config": json.dumps(tiny_masked.config_of(tiny_masked.show_o_params(280)))}
    save_file(tensors, models / "nan_show_o.safetensors", config)
    (models / "nan_show_o.tokenizer.json").write_bytes(words)
    picture = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    Image.fromarray(picture).save(host.input_dir / "shades.png")
    Image.fromarray(np.full((20, 24, 3), 90, np.uint8)).save(host.input_dir / "oblong.png")
    mask = np.zeros((16, 16, 4), np.uint8)
    mask[:8, :8, 3] = 0
    mask[8:, :, 3] = mask[:, 8:, 3] = 255
    Image.fromarray(mask).save(host.input_dir / "corner.png")  # LoadImageMask: alpha 0 is white


def loaders(model: str, tokenizer: str) -> dict:
    return {
        "model": node("MMGenLoadMaskedModel", model_name=model, dtype="auto"),
        "tokenizer": node("MMGenLoadImageTokenizer", tokenizer_name=tokenizer, dtype="auto"),
    }


def finished(prompt: dict, name: str = "sampler") -> dict:
    return prompt | {
        "decode": node("MMGenDecodeTokens", tokenizer=["tokenizer", 0], tokens=[name, 0]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="test"),
    }


SETTINGS = {"seed": 0, "steps": 4, "guidance": 1.75, "temperature": 1.0, "schedule": "cosine"}


def graph(model: str = MODEL, tokenizer: str = TOKENIZER, **settings) -> dict:
    sampler = {"text": "a red heart", **SETTINGS, "batch_size": 1}
    prompt = loaders(model, tokenizer)
    prompt["sampler"] = node(
        "MMGenMaskedSampler",
        model=["model", 0],
        tokenizer=["tokenizer", 0],
        **(sampler | settings),
    )
    return finished(prompt)


def encoded(prompt: dict, picture: str = "shades.png") -> dict:
    prompt["picture"] = node("LoadImage", image=picture)
    prompt["encode"] = node("MMGenEncodeImage", tokenizer=["tokenizer", 0], image=["picture", 0])
    return prompt


def drawn(host, prompt: dict) -> list[np.ndarray]:
    pictures = host.images(host.run(prompt))
    return [np.asarray(Image.open(io.BytesIO(png)), np.float32) for png in pictures]


def test_batch_equals_single_runs_with_previews(host, show_o):
    pair = drawn(host, graph(batch_size=2, seed=5))
    assert len(pair) == 2 and pair[0].shape == (16, 16, 3)
    single = drawn(host, graph(seed=6))[0]
    assert np.abs(pair[1] - single).max() <= 1
    assert np.abs(pair[0] - pair[1]).max() > 4
    events = host.watch(graph(seed=77))
    assert events.of("execution_success") and events.previews


def test_in_painting_keeps_the_other_tokens(host, show_o):
    prompt = encoded(graph(start_tokens=["encode", 0], mask=["mask", 0]))
    prompt["mask"] = node("LoadImageMask", image="corner.png", channel="alpha")
    prompt["view"] = node("MMGenViewTokens", tokens=["sampler", 0], map_size=16)
    prompt["before"] = node("MMGenViewTokens", tokens=["encode", 0], map_size=16)
    prompt["save"] = node("SaveImage", images=["view", 0], filename_prefix="test")
    prompt["save_before"] = node("SaveImage", images=["before", 0], filename_prefix="test")
    del prompt["decode"]
    after, before = drawn(host, prompt)
    changed = np.abs(after - before).max(-1) > 0
    assert not changed[8:].any() and not changed[:, 8:].any() and changed.any()


def test_token_mask_does_the_same_job(host, show_o):
    prompt = encoded(graph(start_tokens=["masked", 0]))
    prompt["mask"] = node("LoadImageMask", image="corner.png", channel="alpha")
    prompt["masked"] = node("MMGenTokenMask", tokens=["encode", 0], mask=["mask", 0], coverage=0.1)
    assert drawn(host, prompt)[0].shape == (16, 16, 3)


def panorama(lines: str) -> dict:
    prompt = encoded(loaders(MODEL, TOKENIZER))
    prompt["sampler"] = node(
        "MMGenExtrapolate",
        model=["model", 0],
        tokenizer=["tokenizer", 0],
        tokens=["encode", 0],
        steps_text=lines,
        **SETTINGS,
    )
    return finished(prompt)


def test_a_picture_grows_in_any_direction(host, show_o):
    assert drawn(host, panorama("right: a tree\nleft: a heart"))[0].shape == (16, 32, 3)
    assert drawn(host, panorama("down: a tree\nright: a heart"))[0].shape == (24, 24, 3)
    fails(host, panorama("north: a tree"), "Line 1 is 'north: a tree'")


def question(model: str = MODEL, picture: str | None = "shades.png", **clip) -> dict:
    prompt = loaders(model, TOKENIZER)
    prompt["clip"] = node("MMGenMaskedClip", model=["model", 0], **clip)
    given = {}
    if picture is not None:
        prompt["picture"] = node("LoadImage", image=picture)
        given["image"] = ["picture", 0]
    prompt["ask"] = node(
        "TextGenerate",
        clip=["clip", 0],
        prompt="What is this?",
        max_length=12,
        sampling_mode="off",
        thinking=False,
        use_default_template=True,
        **given,
    )
    prompt["show"] = node("PreviewAny", source=["ask", 0])
    return prompt


def test_questions_go_through_generate_text(host, show_o):
    assert "show" in host.run(question(tokenizer=["tokenizer", 0])).outputs
    assert "show" in host.run(question(picture=None)).outputs
    fails(host, question(), "connect its tokenizer")
    fails(host, question("clip_show_o.safetensors"), "connect clip_vision")
    fails(host, question(picture="oblong.png", tokenizer=["tokenizer", 0]), "24 x 20")


def solved(model: str, **settings) -> dict:
    inputs = {"text": "a heart", "seed": 1, "steps": 3, "guidance": 2.0, "batch_size": 2}
    return {
        "model": node("MMGenLoadMaskedModel", model_name=model, dtype="auto"),
        "sampler": node("MMGenFlowSampler", model=["model", 0], **(inputs | settings)),
        "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="test"),
    }


@pytest.mark.parametrize(("model", "shape"), [("tiny_flow", (3, 2)), ("tiny_paper", (4, 4))])
def test_transfusion_solves_latents(host, show_o, model, shape):
    events = host.watch(solved(f"{model}.safetensors"))
    assert events.of("execution_success") and events.previews
    sized = solved(f"{model}.safetensors", latent_width=6, latent_height=8)
    assert host.run(sized)
    fails(host, solved(f"{model}.safetensors", latent_width=6), "Set both")


def test_transfusion_tells_stories(host, show_o):
    inputs = {
        "text": "a heart",
        "seed": 1,
        "steps": 3,
        "guidance": 2.0,
        "temperature": 1.0,
        "max_tokens": 20,
    }
    for model in ("tiny_flow.safetensors", "tiny_paper.safetensors"):
        prompt = {
            "model": node("MMGenLoadMaskedModel", model_name=model, dtype="auto"),
            "story": node("MMGenFlowStory", model=["model", 0], **inputs),
            "show": node("PreviewAny", source=["story", 0]),
        }
        assert "a heart" in json.dumps(host.run(prompt).outputs)


def turn(action: str, text: str, **given) -> dict:
    inputs = {"seed": 1, "steps": 3, "guidance": 1.75, "max_tokens": 8, "temperature": 0.0}
    return node(
        "MMGenDialogueTurn",
        model=["model", 0],
        tokenizer=["tokenizer", 0],
        text=text,
        action=action,
        **inputs,
        **given,
    )


def test_a_dialogue_draws_and_answers(host, show_o):
    prompt = loaders(MODEL, TOKENIZER)
    prompt["first"] = turn("draw", "a red heart")
    prompt["second"] = turn("answer", "What is this?", dialogue=["first", 0])
    prompt["third"] = turn("answer", "What else?", dialogue=["second", 0])
    prompt["save"] = node("SaveImage", images=["third", 3], filename_prefix="test")
    prompt["show"] = node("PreviewAny", source=["third", 2])
    result = host.run(prompt)
    assert len(host.images(result)) == 1
    said = json.dumps(result.outputs["show"])
    assert "User: a red heart" in said and "<image>" in said and "User: What else?" in said


def test_a_dialogue_about_a_given_picture(host, show_o):
    prompt = loaders(MODEL, TOKENIZER)
    prompt["picture"] = node("LoadImage", image="shades.png")
    prompt["first"] = turn("answer", "What is this?", image=["picture", 0])
    prompt["show"] = node("PreviewAny", source=["first", 1])
    assert "show" in host.run(prompt).outputs
    prompt["picture"] = node("LoadImage", image="oblong.png")
    fails(host, prompt, "24 x 20")


def test_precisions(host, show_o):
    for dtype in ("bf16", "int8"):
        prompt = graph(seed=2)
        prompt["model"]["inputs"]["dtype"] = dtype
        assert drawn(host, prompt)[0].shape == (16, 16, 3)


def test_bad_input_is_named(host, show_o):
    fails(host, graph("lonely_show_o.safetensors"), "tokenizer.json")
    fails(host, graph(tokenizer="other_magvit.safetensors"), "draws 32 codes")
    fails(host, graph("strange_show_o.safetensors"), "belongs to the tokenizer another one")
    fails(host, graph("tiny_flow.safetensors"), "use Flow Sampler")
    fails(host, solved(MODEL), "use Masked Sampler")
    fails(host, graph("tiny_magvit.safetensors"), "masked or flow model is needed")
    fails(host, graph(text="red heart " * 40), "at most 14")
    fails(host, graph(width=40), "Set both width and height")
    fails(host, graph("nan_show_o.safetensors"), "NaN or infinity in decoder.norm.weight")
    fails(host, encoded(graph(start_tokens=["encode", 0])), "Nothing says which part")
    assert drawn(host, graph(text=""))[0].shape == (16, 16, 3)  # the server goes on
