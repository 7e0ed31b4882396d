"""Every shipped workflow runs in the real server, and its two forms say the same."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tiny_sd15
from PIL import Image
from prompts import ids_of, pixels, read, with_seed
from workflow_forms import to_api

from mmgen_core.commands.client import WorkflowError
from mmgen_core.commands.places import ROOT

NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
NO_PUBLIC_FILES = {"transfusion_stream"}  # its authors published none
REFINER = "var_sd_refiner"  # needs a Stable Diffusion checkpoint
PICKERS = (
    "model_name",
    "tokenizer_name",
    "text_encoder_name",
    "clip_name",
    "ckpt_name",
    "llm_name",
    "language_model",
    "detokenizer_name",
)
LOADERS = ("MMGenLoadScaleModel", "MMGenLoadImageTokenizer")


def is_complete(name: str) -> bool:
    """Whether a template needs no other model than those of this pack."""
    prompt = read(name)
    names = {
        value
        for entry in prompt.values()
        for key, value in entry["inputs"].items()
        if key in PICKERS
    }
    return all(value.startswith("mmgen_demo_") for value in names)


OURS = [name for name in NAMES if is_complete(name)]


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_say_the_same(host, models, name):
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    assert workflow["version"] == 0.4
    assert to_api(workflow, host.client.object_info()) == read(name), "run tests/make_templates.py"


@pytest.mark.parametrize("name", NAMES)
def test_template_is_listed_with_a_thumbnail(host, name):
    assert name in host.client.get("/workflow_templates")["mmgen"]
    thumbnail = Image.open(ROOT / "workflows" / f"{name}.jpg")
    assert thumbnail.format == "JPEG" and min(thumbnail.size) >= 256


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_PUBLIC_FILES])
def test_template_names_public_files(name):
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    repositories = set()
    for node in workflow["nodes"]:
        if node["type"].startswith("MMGenLoad") and "Tokens" not in node["type"]:
            files = node["properties"]["models"]
            assert files and all(f["url"].endswith(f["name"]) for f in files)
            repositories |= {f["url"].split("/resolve/")[0] for f in files}
        if node["type"].startswith("MMGen"):
            assert node["properties"]["cnr_id"] == "mmgen" and node["properties"]["ver"]
    notes = " ".join(n["widgets_values"][0] for n in workflow["nodes"] if "Note" in n["type"])
    assert not repositories or any(repository in notes for repository in repositories)


@pytest.mark.parametrize("name", OURS)
def test_template_draws_a_picture(host, models, name):
    result = host.run(read(name))
    saved = [file for file in host.image_files(result) if file.kind == "output"]
    assert saved
    for file in saved:
        assert pixels(host.client.download(file)).std() > 2, file.filename


def test_previews_arrive(host, models):
    prompt = with_seed(read("var_class_to_image"), 1001)
    events = host.watch(prompt, extra_data={"preview_method": "auto"})
    assert events.kinds()[-1] == "execution_success"
    assert events.previews
    sampler = ids_of(prompt, "MMGenScaleSampler")[0]
    assert {preview.metadata["node_id"] for preview in events.previews} == {sampler}
    for preview in events.previews:
        assert Image.open(io.BytesIO(preview.image)).size[0] >= 4


def test_no_previews_where_they_are_off(host, models):
    prompt = with_seed(read("var_class_to_image"), 1002)
    events = host.watch(prompt, extra_data={"preview_method": "none"})
    assert events.kinds()[-1] == "execution_success" and not events.previews


def test_progress_counts_tokens(host, models):
    events = host.watch(with_seed(read("var_class_to_image"), 1003))
    sampler = ids_of(read("var_class_to_image"), "MMGenScaleSampler")[0]
    states = [data["nodes"].get(sampler) for data in events.of("progress_state")]
    last = [state for state in states if state][-1]
    assert last["value"] == last["max"] > 4


def test_second_run_is_cached(host, models):
    prompt = with_seed(read("var_class_to_image"), 1004)
    host.run(prompt)
    cached = host.watch(prompt).of("execution_cached")[-1]["nodes"]
    assert set(ids_of(prompt, "MMGenScaleSampler", "MMGenDecodeTokens", *LOADERS)) <= set(cached)


def test_another_seed_keeps_the_models(host, models):
    prompt = read("var_class_to_image")
    host.run(with_seed(prompt, 1005))
    cached = host.watch(with_seed(prompt, 1006)).of("execution_cached")[-1]["nodes"]
    assert set(ids_of(prompt, *LOADERS)) <= set(cached)
    assert not set(ids_of(prompt, "MMGenScaleSampler")) & set(cached)


def test_inpainting_leaves_other_pixels(host, models):
    prompt = read("var_inpaint")
    result = host.run(prompt)
    files = {file.node: file for file in host.image_files(result)}
    source = pixels(host.client.download(files[ids_of(prompt, "PreviewImage")[0]]))
    edited = pixels(host.client.download(files[ids_of(prompt, "SaveImage")[0]]))
    changed = np.abs(source - edited).max(axis=-1) > 1
    height, width = changed.shape
    assert changed.any()
    assert not changed[: height // 2].any() and not changed[:, : width // 4].any()


def test_saved_tokens_can_be_loaded(host, models):
    prompt = read("var_variation")
    host.run(prompt)
    saved = sorted((host.output_dir / "tokens").glob("mmgen_*.tokens.safetensors"))
    loader, view = ids_of(prompt, "MMGenLoadTokens")[0], ids_of(prompt, "MMGenViewTokens")[0]
    maps = ids_of(prompt, "PreviewImage")[0]
    assert saved
    prompt[loader]["inputs"]["tokens_name"] = f"tokens/{saved[-1].name} [output]"
    prompt[view]["inputs"]["tokens"] = [loader, 0]
    result = host.client.wait(
        host.client.submit(prompt, partial_execution_targets=[maps]), timeout=120
    )
    assert len(host.images(result)) == 1


def test_refiner_names_the_missing_checkpoint(host, models):
    with pytest.raises(WorkflowError, match="CheckpointLoaderSimple.*v1-5-pruned"):
        host.client.run(read(REFINER), whole=True)


def test_refiner_runs_with_a_checkpoint(host, models):
    # the stock nodes on the smallest checkpoint they take, and fewer steps on fewer pixels
    prompt = read(REFINER)
    loader = ids_of(prompt, "CheckpointLoaderSimple")[0]
    path = host.models_dir / "checkpoints" / prompt[loader]["inputs"]["ckpt_name"]
    tiny_sd15.write(path)
    try:
        prompt[ids_of(prompt, "ImageScale")[0]]["inputs"] |= {"width": 64, "height": 64}
        prompt[ids_of(prompt, "KSampler")[0]]["inputs"] |= {"steps": 2}
        files = {file.node: file for file in host.image_files(host.run(prompt))}
    finally:
        path.unlink()
    refined = pixels(host.client.download(files[ids_of(prompt, "SaveImage")[0]]))
    assert refined.shape == (64, 64, 3) and refined.std() > 2
