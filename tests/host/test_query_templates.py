"""Templates of DreamLLM and SEED-X in the real server, on tiny random models and a Stable Diffusion
2.1 of the published shape: pictures, stories as lists, answers, bad input."""

from __future__ import annotations

import pytest
import template_graphs_dreamllm as dream
import template_graphs_seed_x as seed_x
import tiny_query_files
import tiny_sd15
import tiny_sd21_base
from prompts import fails, ids_of, node, pixels, read

from mmgen_core.commands.client import WorkflowError
from mmgen_core.commands.workflows import needs_other_models

DREAMS = [make().name for make in dream.TEMPLATES]


@pytest.fixture(scope="module")
def dreams(host, models):
    """DreamLLM and SD 2.1-base under their published names."""
    tiny_query_files.write_dreamllm(models / dream.FOLDER, context=1024)
    checkpoints = host.models_dir / "checkpoints"
    files = [tiny_sd21_base.write(checkpoints / dream.CHECKPOINT)]
    files.append(tiny_sd15.write(checkpoints / "tiny_sd15_for_dreams.safetensors"))
    yield
    for file in files:
        file.unlink()


def shortened(prompt: dict, **settings) -> dict:
    """A template in tiny sizes."""
    small = {"steps": 2, "width": 64, "height": 64, "max_tokens": 40, **settings}
    for entry in prompt.values():
        names = small.keys() & entry["inputs"].keys()
        entry["inputs"] |= {name: small[name] for name in names}
    return prompt


@pytest.mark.parametrize("name", DREAMS)
def test_template_names_what_is_missing(host, models, name):
    if (models / dream.FOLDER).exists():
        pytest.skip("the files are in place already")
    with pytest.raises(WorkflowError) as caught:
        host.client.run(read(name), whole=True)
    assert {dream.LANGUAGE, dream.CHECKPOINT} <= set(caught.value.missing_files)
    assert needs_other_models(caught.value), "the demo command would not skip it"


@pytest.mark.parametrize("name", ["dreamllm_text_to_image", "dreamllm_published_script"])
def test_template_draws(host, dreams, name):
    saved = pictures(host, shortened(read(name)))
    assert len(saved) == 1 and saved[0].std() > 2 and saved[0].shape[:2] == (64, 64)


def pictures(host, prompt: dict) -> list:
    result = host.run(prompt)
    files = [file for file in host.image_files(result) if file.kind == "output"]
    return [pixels(host.client.download(file)) for file in files]


def test_texts_lead_to_pictures_of_their_own(host, dreams):
    def drawn(**values):
        prompt = shortened(read("dreamllm_text_to_image"))
        (asked,) = ids_of(prompt, "MMGenDreamQueries")
        prompt[asked]["inputs"] |= values
        return pictures(host, prompt)[0]

    base = drawn(text="a red cat")
    assert abs(base - drawn(text="the blue sky")).max() > 1
    assert abs(base - drawn(text="a red cat", negative="blue")).max() > 1


def told(host, prompt: dict) -> tuple[list[str], list]:
    """Texts and pictures of a story."""
    result = host.run(prompt)
    (preview,) = ids_of(prompt, "PreviewAny")[:1]
    texts = host.client.get(f"/history/{result.prompt_id}")[result.prompt_id]["outputs"]
    files = [file for file in host.image_files(result) if file.kind == "output"]
    return texts[preview]["text"], [pixels(host.client.download(file)) for file in files]


def test_story_takes_turns(host, dreams):
    """A random model writes noise, but it asks for pictures, sees them, and ends."""
    counts = set()
    for seed in (1, 2, 3):
        prompt = shortened(read("dreamllm_story"), seed=seed, temperature=1.5, max_pictures=2)
        texts, drawn = told(host, prompt)
        counts.add(len(drawn))
        assert len(drawn) <= 2 and len(texts) == len(drawn) + 1
        assert all(picture.std() > 2 for picture in drawn)
        assert not any("<" in text for text in texts)
    assert counts - {0}, "no story had a picture"


def test_story_without_pictures_saves_none(host, dreams):
    prompt = shortened(read("dreamllm_story"), max_tokens=1)
    texts, drawn = told(host, prompt)
    assert len(texts) == 1 and drawn == []


def test_story_by_hand(host, dreams):
    """Where a turn asks for no picture, what is behind it does not run, and nothing fails."""
    for seed in (1, 2, 3):
        prompt = shortened(read("dreamllm_story_by_hand"), temperature=1.5)
        for place in ids_of(prompt, "MMGenStoryTurn"):
            prompt[place]["inputs"]["seed"] += seed
        assert len(pictures(host, prompt)) <= 2


def test_diffusion_model_of_another_width(host, dreams):
    prompt = shortened(read("dreamllm_text_to_image"))
    (loader,) = ids_of(prompt, "CheckpointLoaderSimple")
    prompt[loader]["inputs"]["ckpt_name"] = "tiny_sd15_for_dreams.safetensors"
    fails(host, prompt, "context of width 1024", "takes 768")
    assert pictures(host, shortened(read("dreamllm_text_to_image"), seed=77))


def test_bad_language_model(host, dreams, models):
    prompt = shortened(read("dreamllm_text_to_image"))
    (loader,) = ids_of(prompt, "MMGenLoadQueryModel")
    prompt[loader]["inputs"]["language_model"] = "tiny_var.safetensors"
    fails(host, prompt, "tiny_var.safetensors", "no resamplers beside it")


# SEED-X


@pytest.fixture(scope="module")
def bundle(host, models):
    folder = models / seed_x.FOLDER
    for variant in ("seed_x", "seed_x_i", "seed_x_edit"):
        tiny_query_files.write_seed_x(folder, variant=variant, pickled=True)
    picture = host.input_dir / "example.png"
    if not picture.exists():
        from PIL import Image

        Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 40).convert("RGB").save(picture)


def test_visual_question(host, bundle):
    """Also the shards of a pickled language model, and a CLIP in the stock Generate Text."""
    prompt = read("seed_x_visual_question")
    (asked,) = ids_of(prompt, "TextGenerate")
    prompt[asked]["inputs"]["max_length"] = 12
    result = host.run(prompt)
    outputs = host.client.get(f"/history/{result.prompt_id}")[result.prompt_id]["outputs"]
    (text,) = outputs[ids_of(prompt, "PreviewAny")[0]]["text"]
    assert text and "<img" not in text


def test_find_runs_on_a_random_model(host, bundle):
    """Which answers with anything but boxes; none is an empty list."""
    prompt = read("seed_x_find")
    (asked,) = ids_of(prompt, "TextGenerate")
    prompt[asked]["inputs"]["max_length"] = 12
    assert len(pictures(host, prompt)) == 1


def test_seed_x_templates_name_what_is_missing(host, bundle):
    for make in seed_x.TEMPLATES:
        name = make().name
        if name in ("seed_x_visual_question", "seed_x_find"):
            continue
        with pytest.raises(WorkflowError) as caught:
            host.client.run(read(name), whole=True)
        missing = set(caught.value.missing_files)
        assert any("seed_detokenizer" in file for file in missing), name
        assert needs_other_models(caught.value)


def test_detokenizer_file_that_is_none(host, bundle, models):
    prompt = {
        "load": node(
            "MMGenLoadSeedXDetokenizer", detokenizer_name="tiny_var.safetensors", dtype="auto"
        ),
        "show": node("PreviewAny", source=["load", 1]),
    }
    fails(host, prompt, "VAR transformer", "de-tokenizer is needed")
