"""STAR in the real server: texts by the stock text encoder loader, the templates, bad input."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pytest
import tiny
import tiny_sd15
import torch
from PIL import Image
from prompts import fails, ids_of, node, pixels, read, with_seed, write_text
from safetensors.torch import save_file

from mmgen_core.commands.client import WorkflowError
from mmgen_core.commands.places import ROOT
from mmgen_core.commands.workflows import needs_other_models
from mmgen_core.image_tokens import ImageTokens

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("star_*.json"))
LONG = "one two three four five six seven eight nine ten " * 8


@pytest.fixture(scope="module")
def star(host, models) -> str:
    """A tiny STAR of the width of the smallest stock text encoder, as a training snapshot and as
    safetensors; the text encoder; a model of another width."""
    tensors = tiny.star_tensors(text_width=768)
    tiny.write(models / "tiny_star.safetensors", tensors, tiny.STAR_CONFIG)
    tiny.write_snapshot(models / "tiny_star.pth", tensors, tiny.STAR_CONFIG)
    tiny.write(models / "narrow_star.safetensors", tiny.star_tensors(), tiny.STAR_CONFIG)
    encoders = host.models_dir / "text_encoders"
    tiny_sd15.write_text_encoder(encoders / "tiny_clip.safetensors")
    large = {"text_model.encoder.layers.30.mlp.fc1.weight": torch.zeros(5120, 1280).half()}
    save_file(large, encoders / "large_clip.safetensors")  # enough to be taken for SDXL's second
    yield "tiny_star.pth"
    (encoders / "tiny_clip.safetensors").unlink()


def drawn(host, text: str = "a red fox", **settings) -> list[np.ndarray]:
    pictures = host.images(host.run(write_text(text, **settings)))
    return [np.asarray(Image.open(io.BytesIO(png)), np.float32) for png in pictures]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """The same tokens: only rounding of the decoder may differ."""
    return np.abs(a - b).max() <= 1


# Templates


def swapped(prompt: dict) -> dict:
    """A template on the tiny files, in tiny sizes."""
    names = {
        "MMGenLoadScaleModel": {"model_name": "tiny_star.pth"},
        "MMGenLoadImageTokenizer": {"tokenizer_name": "tiny_vae.safetensors"},
        "MMGenLoadTextEncoder": {"text_encoder_name": "tiny_clip.safetensors"},
        "ImageScale": {"width": 64, "height": 64},
        "KSampler": {"steps": 2},
    }
    for entry in prompt.values():
        entry["inputs"] |= names.get(entry["class_type"], {})
    return prompt


def test_there_are_templates():
    assert TEMPLATES == ["star_four_seeds", "star_inpaint", "star_sd_refiner", "star_text_to_image"]


def test_template_without_its_files_names_them(host):
    prompt = read("star_text_to_image")
    names = {
        "model_name": "star_rope_d30_256-ar-ckpt-ep3-iter20000.pth",
        "tokenizer_name": "vae_ch160v4096z32.pth",
        "text_encoder_name": "sd21_text_encoder.safetensors",
    }
    for entry in prompt.values():
        entry["inputs"] |= {k: v for k, v in names.items() if k in entry["inputs"]}
    with pytest.raises(WorkflowError) as caught:
        host.client.run(prompt, whole=True)
    assert set(names.values()) <= set(caught.value.missing_files)
    assert needs_other_models(caught.value), "the demo command would not skip it"


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_draws_with_other_files(host, star, name):
    prompt = swapped(read(name))
    checkpoint = None
    if loaders := ids_of(prompt, "CheckpointLoaderSimple"):
        file = prompt[loaders[0]]["inputs"]["ckpt_name"]
        checkpoint = tiny_sd15.write(host.models_dir / "checkpoints" / file)
    try:
        result = host.run(prompt)
    finally:
        if checkpoint is not None:
            checkpoint.unlink()
    saved = [file for file in host.image_files(result) if file.kind == "output"]
    assert len(saved) == (4 if name == "star_four_seeds" else 1)
    for file in saved:
        assert pixels(host.client.download(file)).std() > 2


def test_previews_arrive(host, star):
    prompt = with_seed(swapped(read("star_four_seeds")), 2001)
    events = host.watch(prompt, extra_data={"preview_method": "auto"})
    assert events.kinds()[-1] == "execution_success"
    sampler = ids_of(prompt, "MMGenScaleSampler")[0]
    assert {preview.metadata["node_id"] for preview in events.previews} == {sampler}


# Pictures


def test_seed_and_files(host, star):
    base = drawn(host, seed=3)[0]
    assert same(base, drawn(host, seed=3, model="tiny_star.safetensors")[0])
    assert not same(base, drawn(host, seed=4)[0])


def test_texts_and_attention_change_the_picture(host, star):
    base = drawn(host, seed=1)[0]
    assert not same(base, drawn(host, "a blue house", seed=1)[0])
    assert not same(base, drawn(host, negative="a blue house", seed=1)[0])
    assert not same(base, drawn(host, own_attention=True, seed=1)[0])
    assert not same(base, drawn(host, "", seed=1)[0])


def test_brackets_are_no_weights(host, star):
    bracketed, same_words = drawn(host, "a (red:1.5) fox")[0], drawn(host, "a ( red:1.5 ) fox")[0]
    assert same(bracketed, same_words)
    assert not same(bracketed, drawn(host, "a red fox")[0])


def test_batch_rows_equal_single_runs(host, star):
    batch = drawn(host, seed=20, batch_size=4)
    for i in (0, 3):
        assert same(batch[i], drawn(host, seed=20 + i)[0])


def test_inpainting_keeps_tokens(host, star):
    prompt = write_text("a red fox", seed=5)
    prompt["mask"] = node("SolidMask", value=0.0, width=16, height=16)
    prompt["white"] = node("SolidMask", value=1.0, width=8, height=16)
    both = {"destination": ["mask", 0], "source": ["white", 0], "x": 8, "y": 0, "operation": "add"}
    prompt["half"] = node("MaskComposite", **both)
    masked = {"tokens": ["sampler", 0], "mask": ["half", 0], "coverage": 0.1}
    prompt["masked"] = node("MMGenTokenMask", **masked)
    other = {"seed": 6, "start_tokens": ["masked", 0]}
    prompt["again"] = node("MMGenScaleSampler", **(prompt["sampler"]["inputs"] | other))
    for name in ("sampler", "again"):
        prefix = {"tokens": [name, 0], "filename_prefix": f"star_{name}"}
        prompt[f"save_{name}"] = node("MMGenSaveTokens", **prefix)
    host.run(prompt)
    before, after = (
        ImageTokens.load(sorted((host.output_dir / "tokens").glob(f"star_{name}_*"))[-1]).ids[-1]
        for name in ("sampler", "again")
    )
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2:], after[:, :, 2:])


def test_models_in_every_precision(host, star):
    info = host.client.get("/object_info/MMGenLoadScaleModel")["MMGenLoadScaleModel"]
    for dtype in info["input"]["required"]["dtype"][1]["options"]:
        assert drawn(host, dtype=dtype)[0].std() > 2, dtype


# Bad input


@pytest.fixture
def server_goes_on(host, star):
    """After a bad prompt a good one runs."""
    yield
    assert drawn(host, seed=os.getpid())


def test_long_text(host, star, server_goes_on):
    fails(host, write_text(LONG), "80 tokens", "at most 75", "Shorten it: 'one two")
    fails(host, write_text("fox", negative=LONG), "80 tokens", "at most 75")
    assert drawn(host, "one " * 75)


def test_text_encoder_of_another_width(host, star, server_goes_on):
    fails(host, write_text(model="narrow_star.safetensors"), "width 768", "needs 12")


def test_text_encoder_of_two_parts(host, star, server_goes_on):
    prompt = write_text()
    names = {"clip_name1": "tiny_clip.safetensors", "clip_name2": "large_clip.safetensors"}
    prompt["clip"] = node("DualCLIPLoader", **names, type="sdxl")
    fails(host, prompt, "2 parts", "single encoder")


def test_class_for_a_model_of_texts_and_text_for_one_of_classes(host, star, server_goes_on):
    prompt = write_text()
    del prompt["sampler"]["inputs"]["prompt"]
    fails(host, prompt, "from a text, not from a class")
    fails(host, write_text(model="tiny_var.safetensors"), "from a class, not from a text")


def test_mode_without_refiner(host, star, server_goes_on):
    for mode in ("new", "1024"):
        fails(host, write_text(mode=mode), mode, "refiner", "'plain'")
    assert drawn(host, mode="old")


def test_missing_tensor_of_a_snapshot(host, star, models, server_goes_on):
    tensors = tiny.star_tensors(text_width=768)
    tensors.pop("blocks.1.cross_attn.mat_kv.weight")
    tiny.write_snapshot(models / "lacks.pth", tensors, tiny.STAR_CONFIG)
    fails(host, write_text(model="lacks.pth"), "lacks.pth", "blocks.1.cross_attn.kv.weight")


def test_class_by_name_of_a_model_without_classes(host, star, server_goes_on):
    prompt = write_text()
    prompt["class"] = node("MMGenClassByName", model=["model", 0], name="fox")
    prompt["sampler"]["inputs"]["class_id"] = ["class", 0]
    fails(host, prompt, "no class 'fox'.*no classes")


def test_public_names_in_the_templates():
    for name in TEMPLATES:
        workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
        notes = " ".join(n["widgets_values"][0] for n in workflow["nodes"] if "Note" in n["type"])
        assert "https://huggingface.co/taocrayon/STAR" in notes and "text_encoders" in notes
