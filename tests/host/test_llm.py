"""Language models in the real server: the stock node, rewriting, plans, their uses, templates."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_gligen
import tiny_llm
import tiny_sd15
from llm_server import PLAN, serving
from PIL import Image
from prompts import fails, ids_of, node, pixels, read

from mmgen_core.commands.places import ROOT

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("llm_*.json"))
SD, SDXL = "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors"
GLIGEN = "gligen_sd14_textbox_pruned.safetensors"


@pytest.fixture(scope="module")
def llm(host, models) -> str:
    """A random language model; also under the demo's name, where that is not there."""
    tiny_llm.write(host.models_dir / "LLM" / "tiny_llm")
    if not (ROOT / "models" / "mmgen_demo_llm").is_dir():
        tiny_llm.write(models / "mmgen_demo_llm")
    return "tiny_llm"


@pytest.fixture(scope="module")
def checkpoints(host):
    """A tiny Stable Diffusion under the names that the templates open on, and its GLIGEN."""
    folder = host.models_dir / "checkpoints"
    paths = [tiny_sd15.write(folder / name) for name in (SD, SDXL)]
    paths.append(tiny_gligen.write(host.models_dir / "gligen" / GLIGEN))
    yield
    for path in paths:
        path.unlink()


@pytest.fixture(scope="module")
def star(host, models) -> None:
    """A tiny STAR and its text encoder under the demo's names, where these are not there."""
    here = ROOT / "models"
    if not (here / "mmgen_demo_star.safetensors").is_file():
        tensors = tiny.star_tensors(text_width=768)
        tiny.write(models / "mmgen_demo_star.safetensors", tensors, tiny.STAR_CONFIG)


@pytest.fixture
def served():
    with serving() as server:
        yield server


def loader(name: str = "tiny_llm") -> dict:
    return node("MMGenLoadLLM", llm_name=name, dtype="fp32")


def connect(served, **values) -> dict:
    defaults = {"url": served.url, "model": "small", "key_variable": "", "timeout": 5.0}
    return node("MMGenConnectLLMEndpoint", **(defaults | {"retries": 1} | values))


def listed(values: list) -> dict:
    """A list as a widget's value: a bare one would be taken for a link."""
    return {"__value__": values}


def show(link: list) -> dict:
    return node("PreviewAny", source=link)


def shown(host, prompt: dict) -> dict[str, list[str]]:
    """What the nodes show as text, by node."""
    outputs = host.run(prompt).outputs
    return {name: list(output["text"]) for name, output in outputs.items() if "text" in output}


def generate(seed: int = 0, text: str = "a cat", **values) -> dict:
    sampling = {"temperature": 0.7, "top_k": 64, "top_p": 0.95, "min_p": 0.05}
    sampling |= {"repetition_penalty": 1.05, "seed": seed, "presence_penalty": 0.0}
    inputs = {f"sampling_mode.{name}": value for name, value in sampling.items()}
    given = {"clip": ["llm", 0], "prompt": text, "max_length": 24, "sampling_mode": "on"}
    return node("TextGenerate", **given, **inputs, **values)


# The stock node


def test_stock_node_writes(host, llm):
    def text(seed: int) -> str:
        prompt = {"llm": loader(), "text": generate(seed), "show": show(["text", 0])}
        return shown(host, prompt)["show"][0]

    assert text(1) == text(1) != text(2)


def test_stock_node_asks_a_server(host, served):
    served.text = "a ginger cat"
    prompt = {"llm": connect(served), "text": generate(7), "show": show(["text", 0])}
    assert shown(host, prompt)["show"] == ["a ginger cat"]
    assert served.requests[0]["seed"] == 7 and served.requests[0]["top_k"] == 64


def test_progress_and_text_arrive(host, llm):
    prompt = {"llm": loader(), "text": generate(os.getpid()), "show": show(["text", 0])}
    events = host.watch(prompt)
    states = [data["nodes"].get("text") for data in events.of("progress_state")]
    assert [state for state in states if state][-1]["max"] == 24


# Rewriting


def rewrite(**values) -> dict:
    defaults = {
        **{"clip": ["llm", 0], "text": "a cat", "preset": "SDXL prose", "style": ""},
        **{"length": "as the preset says", "variants": 1, "seed": 0, "max_length": 60},
        **{"temperature": 0.8, "top_p": 0.95, "edited": ""},
    }
    return node("MMGenRewritePrompt", **(defaults | values))


def rewritten(host, clip: dict, **values) -> dict[str, list[str]]:
    prompt = {
        "llm": clip,
        "rewrite": rewrite(**values),
        "text": show(["rewrite", 0]),
        "negative": show(["rewrite", 1]),
    }
    return shown(host, prompt)


def test_rewrites(host, served):
    served.text = '**Prompt:** "A ginger cat, soft light"\n\nNegative prompt: dog, blur'
    found = rewritten(host, connect(served), style="oil painting", length="short")
    assert found["text"] == ["A ginger cat, soft light"] and found["negative"] == ["dog, blur"]
    assert "A ginger cat" in found["rewrite"][0] and "dog, blur" in found["rewrite"][0]
    system, user = served.requests[0]["messages"]
    assert user["content"] == "a cat"
    assert "SDXL" in system["content"] and "oil painting" in system["content"]
    assert "20 words" in system["content"]


def test_variants_are_single_runs(host, llm):
    def texts(**values) -> list[str]:
        return rewritten(host, loader(), text="a dog", **values)["text"]

    assert texts(variants=3, seed=5) == [texts(seed=5 + i)[0] for i in range(3)]


def test_edited_text_is_used_and_no_model_is_asked(host, served):
    edited = "my own cat\nNegative prompt: rain"
    found = rewritten(host, connect(served), edited=edited)
    assert (found["text"], found["negative"]) == (["my own cat"], ["rain"])
    assert not served.requests


def test_own_preset(host, served):
    folder = host.models_dir / "mmgen" / "presets"
    folder.mkdir(exist_ok=True)
    path = folder / "haiku.txt"
    path.write_text("Write a haiku about the picture.", "utf-8")
    try:
        options = host.client.get("/object_info/MMGenRewritePrompt")["MMGenRewritePrompt"]
        assert "haiku" in options["input"]["required"]["preset"][1]["options"]
        rewritten(host, connect(served), preset="haiku")
        assert "haiku about" in served.requests[-1]["messages"][0]["content"]
        path.write_text("Write a sonnet.", "utf-8")
        rewritten(host, connect(served), preset="haiku")
        assert "sonnet" in served.requests[-1]["messages"][0]["content"]
    finally:
        path.unlink()


def test_picture_is_shown_to_the_model(host, served):
    prompt = {
        "llm": connect(served),
        "image": node("EmptyImage", width=32, height=16, batch_size=1, color=255),
        "rewrite": rewrite(image=["image", 0]),
        "text": show(["rewrite", 0]),
    }
    host.run(prompt)
    content = served.requests[0]["messages"][1]["content"]
    assert content[1]["image_url"]["url"].startswith("data:image/jpeg;base64,")


# Plans


def plan(**values) -> dict:
    defaults = {
        **{"clip": ["llm", 0], "prompt": "a cat and a dog", "width": 512, "height": 512},
        **{"max_objects": 3, "seed": 0, "max_length": 900, "temperature": 0.7, "top_p": 0.95},
        **{"retries": 0},
    }
    return node("MMGenPlanLayout", **(defaults | values))


CANVAS = {"width": 512, "height": 512}


def planned(host, clip: dict, **values) -> dict[str, list[str]]:
    prompt = {
        "llm": clip,
        "plan": plan(**values),
        **{
            name: show(["plan", i]) for i, name in enumerate(("boxes", "caption", "ground", "json"))
        },
    }
    return shown(host, prompt)


def test_plan_from_a_server(host, served):
    found = planned(host, connect(served))
    boxes = json.loads(found["boxes"][0])
    assert [box["metadata"]["desc"] for box in boxes[0]] == ["black cat", "dog"]
    assert boxes[0][0]["x"] == 51 and boxes[0][0]["width"] == 179
    assert found["caption"] == ["a cat and a dog"] and found["ground"] == ["lawn"]
    assert "1000" in served.requests[0]["messages"][0]["content"]


def test_a_local_model_can_write_nothing_but_a_plan(host, llm):
    found = planned(host, loader(), seed=3)
    layout = json.loads(found["json"][0])
    assert 1 <= len(layout["objects"]) <= 3
    assert planned(host, loader(), seed=3) == found


def test_asks_again_with_the_complaint(host, served):
    found = planned(host, connect(served), prompt="three cats and a dog", retries=1)
    assert len(served.requests) == 2
    assert "3 of 'cat'" in served.requests[1]["messages"][0]["content"]
    assert "3 of 'cat'" in found["plan"][0]


def test_canvas_keeps_plan_and_edits(host, served):
    prompt = {
        "llm": connect(served),
        "plan": plan(),
        "canvas": node(
            "CreateBoundingBoxes", bboxes=["plan", 0], editor_state=listed([]), **CANVAS
        ),
        "masks": node("MMGenLayoutToMasks", boxes=["canvas", 2], feather=0, style="oil", **CANVAS),
        "texts": show(["masks", 2]),
        "image": node("MMGenDrawLayout", boxes=["canvas", 2], **CANVAS),
        "save": node("PreviewImage", images=["image", 0]),
    }
    assert shown(host, prompt)["texts"] == ["black cat, oil", "dog, oil"]
    edit = {"x": 10, "y": 20, "width": 100, "height": 50, "metadata": {"desc": "owl"}}
    incoming = host.run(prompt).outputs["canvas"]["input_bboxes"]
    prompt["canvas"]["inputs"] |= {
        "editor_state": listed([edit]),
        "last_incoming": listed(incoming),
    }
    assert shown(host, prompt)["texts"] == ["owl, oil"]


def test_reads_any_text(host):
    text = "Objects: [('a car', [10, 20, 200, 100])]\nBackground prompt: a street"
    prompt = {
        "read": node("MMGenReadLayout", text=text, grid="auto", **CANVAS),
        "ground": show(["read", 2]),
        "elements": node("MMGenLayoutToElements", boxes=["read", 0], **CANVAS),
        "json": node(
            "BuildJsonPromptIdeogram",
            element=["elements", 0],
            high_level_description="a car",
            background=["read", 2],
            style="none",
            aesthetics="",
            lighting="",
            medium="",
            color_palette=listed([]),
        ),
        "list": show(["json", 0]),
    }
    found = shown(host, prompt)
    assert found["ground"] == ["a street"]
    parts = json.loads(found["list"][0])["compositional_deconstruction"]
    assert parts["elements"][0]["desc"] == "a car"
    assert parts["elements"][0]["bbox"] == [39, 20, 234, 410]


def test_checker_asks_once_more(host, served):
    text = json.dumps([{"label": "cat", "box": [10, 10, 200, 200]}])
    prompt = {
        "llm": connect(served),
        "read": node("MMGenReadLayout", text=text, grid="pixels", **CANVAS),
        "check": node(
            "MMGenCheckLayout",
            boxes=["read", 0],
            prompt="a cat left of two dogs",
            seed=0,
            clip=["llm", 0],
            **CANVAS,
        ),
        "score": show(["check", 1]),
        "report": show(["check", 2]),
    }
    served.text = PLAN.replace(
        "]}]}", ']}, {"label": "dog", "attributes": "", "box": [700, 100, 900, 280]}]}'
    )
    found = shown(host, prompt)
    assert float(found["score"][0]) == 1.0 and len(served.requests) == 1
    served.text = "no plan today"
    prompt["check"]["inputs"]["seed"] = 1
    found = shown(host, prompt)
    assert float(found["score"][0]) < 1.0 and "two dogs" in found["report"][0]


def test_pictures_are_composed(host):
    text = json.dumps(
        [{"label": "a", "box": [0, 0, 256, 512]}, {"label": "b", "box": [256, 0, 512, 512]}]
    )
    prompt = {
        "read": node("MMGenReadLayout", text=text, grid="pixels", **CANVAS),
        "red": node("EmptyImage", width=64, height=64, batch_size=2, color=0xFF0000),
        "join": node(
            "MMGenComposeLayout",
            images=["red", 0],
            boxes=["read", 0],
            feather=0,
            clear_white=0.0,
            **CANVAS,
        ),
        "save": node("PreviewImage", images=["join", 0]),
    }
    image = pixels(host.images(host.run(prompt))[0])
    assert image.shape == (512, 512, 3) and np.abs(image - (255, 0, 0)).max() <= 1
    prompt["red"]["inputs"]["batch_size"] = 1
    fails(host, prompt, "1 pictures for 2 boxes")


# Bad input


def test_bad_input(host, llm, served, models):
    fails(host, {"llm": loader("gone"), "b": generate(), "c": show(["b", 0])}, "gone")
    prompt = {"llm": loader(), "text": generate(text=""), "show": show(["text", 0])}
    prompt["text"]["inputs"]["use_default_template"] = False
    fails(host, prompt, "prompt is empty")
    encode = {"llm": loader(), "e": node("CLIPTextEncode", clip=["llm", 0], text="a")}
    encode["p"] = show(["e", 0])
    fails(host, encode, "writes text", "Generate Text")
    fails(host, {"llm": loader(), "plan": plan(prompt=" "), "p": show(["plan", 0])}, "empty")
    read_ = node("MMGenReadLayout", text="nothing here", grid="auto", **CANVAS)
    fails(host, {"r": read_, "p": show(["r", 0])}, "no layout", "nothing here")


def test_bad_servers(host, served):
    served.text = "I would rather not."
    fails(
        host, {"llm": connect(served), "plan": plan(), "p": show(["plan", 0])}, "planned no layout"
    )
    served.behaviour = ["forbidden"]
    fails(host, {"llm": connect(served), "r": rewrite(), "p": show(["r", 0])}, "HTTP 401")
    key = connect(served, key_variable="sk-12345")
    fails(host, {"llm": key, "r": rewrite(), "p": show(["r", 0])}, "name of an environment")
    secret = connect(served, key_variable="PATH")
    fails(host, {"llm": secret, "r": rewrite(), "p": show(["r", 0])}, "only variables named")
    unset = connect(served, key_variable="MMGEN_UNSET_API_KEY")
    fails(host, {"llm": unset, "r": rewrite(), "p": show(["r", 0])}, "is not set")
    nowhere = connect(served, url="http://127.0.0.1:9/v1", retries=0)
    fails(host, {"llm": nowhere, "r": rewrite(), "p": show(["r", 0])}, "no connection")


def test_interrupt_stops_a_slow_server(host, served):
    served.behaviour = ["endless"]
    asked = False

    def stop(events):
        nonlocal asked
        if not asked and served.requests:
            asked = True
            host.client.interrupt()

    prompt = {"llm": connect(served), "r": rewrite(seed=os.getpid()), "p": show(["r", 0])}
    events = host.watch(prompt, on_message=stop)
    assert events.kinds()[-1] == "execution_interrupted"
    assert served.hung_up.wait(5)


# Templates


def swapped(prompt: dict, served) -> dict:
    """A template with the tiny files, in tiny sizes, and the server of the test."""
    smaller = {"width": 128, "height": 128}
    names = {
        "KSampler": {"steps": 2},
        "EmptyLatentImage": smaller,
        "MMGenConnectLLMEndpoint": {"url": served.url},
    }
    for entry in prompt.values():
        entry["inputs"] |= names.get(entry["class_type"], {})
        if entry["class_type"].startswith(("MMGen", "CreateBounding")):
            if "width" in entry["inputs"] and entry["inputs"]["width"] >= 128:
                entry["inputs"] |= smaller
    return prompt


def test_there_are_templates():
    assert len(TEMPLATES) == 6


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_draws(host, models, llm, star, checkpoints, served, name):
    prompt = swapped(read(name), served)
    result = host.run(prompt)
    saved = [file for file in host.image_files(result) if file.kind == "output"]
    assert saved
    for file in saved:
        assert pixels(host.client.download(file)).std() > 2
    if ids_of(prompt, "MMGenConnectLLMEndpoint"):
        assert len(served.requests) >= 2


def test_regions_change_the_picture(host, models, checkpoints):
    text = json.dumps([{"label": "cat", "box": [0, 0, 64, 128]}])

    def drawn(**values) -> np.ndarray:
        prompt = read("llm_layout_regional_sdxl")
        keep = ids_of(
            prompt, "CheckpointLoaderSimple", "MMGenLayoutToRegions", "KSampler", "SaveImage"
        ) + ids_of(prompt, "EmptyLatentImage", "VAEDecode", "CLIPTextEncode")
        prompt = {name: prompt[name] for name in keep}
        size = {"width": 128, "height": 128}
        prompt["read"] = node("MMGenReadLayout", text=text, grid="pixels", **size)
        for name in ids_of(prompt, "MMGenLayoutToRegions"):
            given = {"boxes": ["read", 0], "background": "a park"}
            prompt[name]["inputs"] |= size | given | values
        for name in ids_of(prompt, "EmptyLatentImage"):
            prompt[name]["inputs"] |= size
        for name in ids_of(prompt, "KSampler"):
            prompt[name]["inputs"]["steps"] = 2
        return np.asarray(Image.open(io.BytesIO(host.images(host.run(prompt))[0])), np.float32)

    for mode in ("area", "mask"):
        assert drawn(mode=mode).std() > 2


def test_help_pages_exist():
    for name in ("MMGenLoadLLM", "MMGenConnectLLMEndpoint", "MMGenRewritePrompt"):
        assert (Path(ROOT) / "web" / "docs" / f"{name}.md").is_file()
