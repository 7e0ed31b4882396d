"""Unified-IO 1 and 2 in the real server: drawing, tasks, boxes, answers, bad input."""

from __future__ import annotations

import io
import json
import shutil

import numpy as np
import pytest
import tiny_gligen
import tiny_sd15
import tiny_unified_io as tiny
import torch
from host_process import run_script
from PIL import Image
from prompts import fails, ids_of, node, read
from safetensors.torch import save_file

FILES = {"1": "uio1/tiny_uio.bin", "2": "uio2/pytorch_model.bin"}
SIZE = tiny.SIDE * tiny.STRIDE


@pytest.fixture(scope="module")
def uio(host, models) -> dict[str, str]:
    """Tiny files in the published layouts, and what goes wrong with such files."""
    one, two = tiny.write_1(models / "uio1"), tiny.write_2(models / "uio2")
    raw = one.read_bytes()
    for name, content in (("cut", raw[: len(raw) // 2]), ("bad", b"\x81\xd9\x01a\xd4\x05x")):
        (models / f"{name}_uio.bin").write_bytes(content)
    (models / "lonely").mkdir(exist_ok=True)
    shutil.copy(two, models / "lonely" / "uio2.bin")
    (models / "wrong").mkdir(exist_ok=True)
    shutil.copy(one, models / "wrong" / "uio1.bin")
    shutil.copy(one.parent / "config.json", models / "wrong" / "config.json")
    shutil.copy(models / "uio2" / "tokenizer.model", models / "wrong" / "spiece.model")
    tensors = torch.load(two, weights_only=True)
    tensors["decoder.decoder_norm.scale"][0] = torch.nan
    (models / "nan").mkdir(exist_ok=True)
    save_file(tensors, models / "nan" / "uio2.safetensors", {"config": json.dumps(tiny.CONFIG_2)})
    shutil.copy(models / "uio2" / "tokenizer.model", models / "nan" / "tokenizer.model")
    noise = np.random.default_rng(0).integers(0, 256, (30, 44, 3), np.uint8)
    Image.fromarray(noise).save(host.input_dir / "noise.png")
    return FILES


def graph(file: str, guidance: float = 1.0, **settings) -> dict:
    sampler = {
        "size": "the model's own",
        "width": 512,
        "height": 512,
        "seed": 0,
        "guidance": guidance,
        "image_guidance": 1.0,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 0.9,
        "batch_size": 1,
    }
    return {
        "model": node("MMGenLoadNextTokenModel", model_name=file, dtype="auto"),
        "tokenizer": node("MMGenLoadImageTokenizer", tokenizer_name=file, dtype="auto"),
        "prompt": node("MMGenMultimodalPrompt", text="a red cat", system_prompt=""),
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


def with_task(prompt: dict, task: str, words: str = "", box: tuple | None = None) -> dict:
    """The task in place of the plain prompt."""
    prompt["picture"] = node("LoadImage", image="noise.png")
    inputs = {"model": ["model", 0], "task": task, "words": words, "image": ["picture", 0]}
    if box is not None:
        names = ("x", "y", "width", "height")
        prompt["box"] = node("PrimitiveBoundingBox", **dict(zip(names, box, strict=True)))
        inputs["box"] = ["box", 0]
    prompt["prompt"] = node("MMGenUnifiedIOTask", **inputs)
    return prompt


def drawn(host, prompt: dict) -> list[np.ndarray]:
    pictures = host.images(host.run(prompt))
    return [np.asarray(Image.open(io.BytesIO(png)), np.float32) for png in pictures]


@pytest.mark.parametrize("system", FILES)
def test_batch_equals_single_runs(host, uio, system):
    pair = drawn(host, graph(uio[system], batch_size=2, seed=5))
    assert len(pair) == 2 and pair[0].shape == (SIZE, SIZE, 3)
    assert np.abs(pair[1] - drawn(host, graph(uio[system], seed=6))[0]).max() <= 1
    assert np.abs(pair[0] - pair[1]).max() > 8


def test_guidance_and_previews(host, uio):
    plain, guided = (drawn(host, graph(uio["2"], g, seed=3))[0] for g in (1.0, 11.0))
    assert np.abs(plain - guided).max() > 8
    events = host.watch(graph(uio["2"], 11.0, seed=4))
    assert events.of("execution_success") and events.previews


@pytest.mark.parametrize("system", FILES)
def test_a_map_gets_the_size_of_its_picture(host, uio, system):
    prompt = with_task(graph(uio[system], seed=1), "depth")
    links = {"model": ["model", 0], "map": ["decode", 0], "image": ["picture", 0]}
    prompt["fit"] = node("MMGenUnifiedIOFitMap", **links)
    prompt["save"]["inputs"]["images"] = ["fit", 0]
    assert drawn(host, prompt)[0].shape == (30, 44, 3)


@pytest.mark.parametrize("system", FILES)
def test_in_painting_takes_a_box(host, uio, system):
    prompt = with_task(graph(uio[system], seed=1), "in-paint", "red dog", (4, 4, 20, 16))
    assert drawn(host, prompt)[0].shape == (SIZE, SIZE, 3)


def question(file: str, text: str) -> dict:
    prompt = graph(file)
    for name in ("prompt", "sampler", "decode", "save", "tokenizer"):
        del prompt[name]
    prompt["picture"] = node("LoadImage", image="noise.png")
    prompt["clip"] = node("MMGenNextTokenClip", model=["model", 0])
    prompt["ask"] = node(
        "TextGenerate",
        clip=["clip", 0],
        prompt=text,
        image=["picture", 0],
        max_length=8,
        sampling_mode="off",
        thinking=False,
        use_default_template=True,
    )
    prompt["show"] = node("PreviewAny", source=["ask", 0])
    return prompt


@pytest.mark.parametrize("system", FILES)
def test_questions_go_through_generate_text(host, uio, system):
    assert host.run(question(uio[system], "what is this?")).outputs["show"]["text"]


def finding(file: str, task: str = "locate", words: str = "the dog") -> dict:
    prompt = question(file, "")
    for name in ("clip", "ask"):
        del prompt[name]
    prompt["find"] = node(
        "MMGenUnifiedIOFind",
        model=["model", 0],
        image=["picture", 0],
        task=task,
        words=words,
        max_tokens=40,
        threshold=0.0,
        overlap=1.0,
    )
    prompt["show"] = node("PreviewAny", source=["find", 1])
    return prompt


@pytest.mark.parametrize("system", FILES)
def test_boxes_come_out_as_boxes(host, uio, system):
    prompt = finding(uio[system])
    links = {"bboxes": ["find", 0], "image": ["picture", 0]}
    prompt["drawn"] = node("DrawBBoxes", **links)
    prompt["save"] = node("SaveImage", images=["drawn", 0], filename_prefix="test")
    result = host.run(prompt)
    assert result.outputs["show"]["text"][0]
    assert host.images(result)


def test_precisions(host, uio):
    for file in uio.values():
        for dtype in ("bf16", "int8"):
            prompt = with_task(graph(file, seed=2), "depth")
            prompt["model"]["inputs"]["dtype"] = dtype
            assert drawn(host, prompt)[0].shape == (SIZE, SIZE, 3)


def test_bad_input_is_named(host, uio):
    one, two = uio["1"], uio["2"]
    fails(host, graph("cut_uio.bin"), r"cut_uio\.bin", "cut off", "Download it again")
    fails(host, graph("bad_uio.bin"), r"bad_uio\.bin", "extension of type 5")
    fails(host, graph("lonely/uio2.bin"), r"uio2\.bin needs", r"tokenizer\.model")
    fails(host, graph("wrong/uio1.bin"), "is no vocabulary of T5")
    fails(host, graph("nan/uio2.safetensors"), "not finite")
    fails(host, graph(one, 3.0), r"set guidance to 1 \(off\)")
    fails(host, graph(two, size="64 x 64"), "draws 8 x 8 pixels only, not 64 x 64")
    mixed = graph(two)
    mixed["tokenizer"]["inputs"]["tokenizer_name"] = "tiny_vae.safetensors"
    fails(host, mixed, "Choose the same file in Load Image Tokenizer")
    fails(host, with_task(graph(one), "edit", "more"), "not trained for the task 'edit'")
    fails(host, with_task(graph(two), "depth", "more"), "takes no text")
    fails(host, with_task(graph(two), "in-paint", "dog", (40, 4, 20, 16)), "has no area within")
    fails(host, finding("tiny_var.safetensors"), "next-token model")
    assert drawn(host, graph(one, seed=1))[0].shape == (SIZE, SIZE, 3)  # the server goes on


TEMPLATES = (
    "unified_io_text_to_image",
    "unified_io_depth_normals_segmentation",
    "unified_io_picture_question",
)


@pytest.mark.parametrize("name", TEMPLATES)
def test_shipped_workflows_run_on_tiny_files(host, uio, name):
    prompt = read(name)
    for entry in prompt.values():
        inputs = entry["inputs"]
        inputs |= {key: uio["2"] for key in ("model_name", "tokenizer_name") if key in inputs}
        if entry["class_type"] == "LoadImage":
            inputs["image"] = "noise.png"
        if entry["class_type"] == "PrimitiveBoundingBox":
            inputs |= {"x": 2, "y": 2, "width": 20, "height": 20}
        if entry["class_type"] == "TextGenerate":
            inputs["max_length"] = 8
    result = host.run(prompt)
    saving = [entry for entry in prompt.values() if entry["class_type"] == "SaveImage"]
    assert len(host.images(result)) == len(saving)
    assert all(result.outputs[key] for key in ids_of(prompt, "SaveImage", "PreviewAny"))


def test_found_objects_are_drawn_anew_in_their_places(host, uio, models):
    """The shipped chain to GLIGEN on the smallest files, with places forced."""
    prompt = read("unified_io_find_to_gligen")
    tiny.write_2(models / "finder", tiny.FINDS_A_BOX)
    names = {"model_name": "finder/pytorch_model.bin", "image": "noise.png"}
    for entry in prompt.values():
        inputs = entry["inputs"]
        inputs |= {k: v for k, v in names.items() if isinstance(inputs.get(k), str)}
        sizes = {key: 64 for key in ("width", "height") if key in inputs}
        inputs |= sizes | ({"steps": 1} if "steps" in inputs else {})
        if entry["class_type"] == "MMGenUnifiedIOFind":
            inputs |= {"threshold": 0.0, "max_tokens": 90, "overlap": 1.0}
    files = {
        tiny_sd15: ("checkpoints", "CheckpointLoaderSimple", "ckpt_name"),
        tiny_gligen: ("gligen", "GLIGENLoader", "gligen_name"),
    }
    paths = []
    for module, (folder, kind, key) in files.items():
        name = prompt[ids_of(prompt, kind)[0]]["inputs"][key]
        path = host.models_dir / folder / name
        path.parent.mkdir(exist_ok=True)
        module.write(path)
        paths.append(path)
    try:
        result = host.run(prompt)
    finally:
        for path in paths:
            path.unlink()
    saved = {file.node for file in host.image_files(result)}
    assert set(ids_of(prompt, "SaveImage", "PreviewImage")) <= saved


LAZY = r"""
models, *files = arguments
from pack.mmgen_core.systems.next_token import MultimodalPrompt, PictureWish

folder_paths.folder_names_and_paths["mmgen"] = ([models], set())
host.register_folders()

def drawn(file, lazy):
    comfy.memory_management.aimdo_enabled = lazy
    model, tokenizer = host.load_next_token_model(file, "fp32"), host.load_tokenizer(file, "fp32")
    for loaded in (model, tokenizer):
        for name, parameter in loaded.patcher.model.named_parameters():
            assert not parameter.is_meta, name
    picture = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
    prompt = model.system.task_prompt("depth", picture=picture)
    with torch.inference_mode(), host.loaded(model, tokenizer) as device:
        wish = PictureWish(guidance=1, seed=3)
        tokens = model.system.draw(model.module, tokenizer.module, prompt, wish, device)
        return tokens.ids[0], tokenizer.vae.decode(tokenizer.module.features(tokens))

for file in files:
    plain, lazy = drawn(file, False), drawn(file, True)
    assert torch.equal(plain[0], lazy[0]) and torch.equal(plain[1], lazy[1])
"""


def test_lazy_models_give_the_same(tmp_path):
    tiny.write_1(tmp_path / "uio1")
    tiny.write_2(tmp_path / "uio2")
    run_script(LAZY, tmp_path, str(tmp_path), *FILES.values())
