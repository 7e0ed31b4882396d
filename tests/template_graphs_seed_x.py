"""What the templates of SEED-X hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_parts import Node, Template

URL = "https://huggingface.co/AILab-CVC/SEED-X-17B"
QWEN_URL = "https://huggingface.co/Qwen/Qwen-VL-Chat"
VAE_URL = "https://huggingface.co/stabilityai/sdxl-vae"
FOLDER, VAE = "SEED-X-17B", "sdxl_vae.safetensors"
INDEX = "llm/pytorch_model.bin.index.json"
STAGES = {"draw": "first_stage", "edit": "second_stage"}


def in_folder(name: str) -> tuple[str, str, str]:
    return name, URL, f"mmgen/{FOLDER}"


PUBLIC_FILES = {
    "MMGenLoadQueryModel": [
        *(
            in_folder(f"{variant}/{name}")
            for variant in ("seed_x", "seed_x_i", "seed_x_edit")
            for name in (INDEX, "agent/pytorch_model.bin")
        ),
        in_folder("cvlm_llama2_tokenizer_100img_and_224loc_addpatch/tokenizer.model"),
    ],
    "MMGenLoadSeedXDetokenizer": [
        in_folder(f"seed_detokenizer/{stage}/pytorch_model.bin") for stage in STAGES.values()
    ],
    "VAELoader": [(VAE, VAE_URL, "vae")],
}

MODELS_NOTE = f"""## Models

- in `ComfyUI/models/mmgen/{FOLDER}`: the repository [SEED-X-17B]({URL}), with its folders \
(`seed_x`, `seed_x_i` or `seed_x_edit`, `seed_detokenizer`, the tokenizer's). Of the language \
model choose the index of its shards, or its single file.
- in `ComfyUI/models/mmgen/QwenViT`: `qwen_vit_G.pt`, the part `transformer.visual` of \
[Qwen-VL-Chat]({QWEN_URL}); the whole checkpoint may be chosen as *vision_encoder* instead.
- in `ComfyUI/models/vae`: [{VAE}]({VAE_URL}).

The weights are under the conditions of Llama 2, Qwen-VL and SDXL. There is no demo model: the \
language model has 13 billion weights, 26 GB in bf16. A picture reads them once (about a second \
where they are streamed); answers read them for every word."""


def seed_x(name: str, variant: str, stage: str | None) -> tuple[Template, Node, Node | None, Node]:
    """A template with its note and loaders: SEED-X, de-tokenizer, VAE."""
    t = Template(name)
    t.group("Models", [-20, -80, 320, 540 if stage else 240])
    language = f"{FOLDER}/{variant}/{INDEX}"
    model = t.add("MMGenLoadQueryModel", (0, 0), language_model=language, dtype="auto")
    detokenizer = vae = None
    if stage:
        detokenizer = t.add(
            "MMGenLoadSeedXDetokenizer",
            (0, 200),
            detokenizer_name=f"{FOLDER}/seed_detokenizer/{STAGES[stage]}/pytorch_model.bin",
            dtype="auto",
        )
        vae = t.add("VAELoader", (0, 360), vae_name=VAE)
    t.note(MODELS_NOTE, (-460, -40), (420, 460))
    return t, model, detokenizer, vae


def imagined(t: Template, position, model: Node, task: str, text: str, **values) -> Node:
    return t.add(
        "MMGenSeedXFeatures",
        position,
        size=(320, 320),
        model=model[0],
        task=task,
        text=text,
        **({"force_picture": True, "seed": 0, "temperature": 0.0} | values),
    )


def condition(t: Template, position, detokenizer: Node, features: Node, **values) -> Node:
    return t.add(
        "MMGenSeedXConditioning",
        position,
        detokenizer=detokenizer[1],
        features=features[0],
        diffusion_model=detokenizer[0],
        **values,
    )


def drawn(t: Template, x: int, detokenizer: Node, vae: Node, asked: Node) -> None:
    """The published sampler, the picture saved."""
    latent = t.add("EmptyLatentImage", (x, 300), width=1024, height=1024, batch_size=1)
    sampled = t.add(
        "KSampler",
        (x, 0),
        model=detokenizer[0],
        seed=42,
        steps=50,
        cfg=7.5,
        sampler_name="euler",
        scheduler="ddim_uniform",
        positive=asked[0],
        negative=asked[1],
        latent_image=latent[0],
        denoise=1.0,
    )
    saved(t, x + 340, sampled, vae)


def saved(t: Template, x: int, latent: Node, vae: Node) -> None:
    picture = t.add("VAEDecode", (x, 0), samples=latent[0], vae=vae[0])
    prefix = f"mmgen/{t.name}"
    t.add("SaveImage", (x, 80), size=(420, 460), images=picture[0], filename_prefix=prefix)


def text_to_image() -> Template:
    t, model, detokenizer, vae = seed_x("seed_x_text_to_image", "seed_x", "draw")
    text = "a lighthouse on a cliff at sunset, oil painting"
    features = imagined(t, (360, 0), model, "draw (SEED-X)", text)
    asked = condition(t, (360, 370), detokenizer, features)
    drawn(t, 740, detokenizer, vae, asked)
    t.note(
        "The language model regresses 64 image features: its 64 image tokens are known ahead, so "
        "all are read in one pass instead of 65. SEED-X's own SDXL draws from the features. "
        "*euler* with *ddim_uniform* at 50 steps has the published noise levels.",
        (740, 470),
        (320, 150),
    )
    return t


def edit() -> Template:
    t, model, detokenizer, vae = seed_x("seed_x_edit", "seed_x_edit", "edit")
    source = t.add("LoadImage", (360, 0), image="example.png")
    features = imagined(
        t,
        (360, 360),
        model,
        "edit (SEED-X-Edit)",
        "Make it a rainy day.",
        image=source[0],
        force_picture=False,
    )
    asked = condition(t, (740, 0), detokenizer, features, source_image=source[0], vae=vae[0])
    guider = t.add(
        "DualCFGGuider",
        (740, 260),
        model=detokenizer[0],
        cond1=asked[0],
        cond2=asked[2],
        negative=asked[1],
        cfg_conds=7.5,
        cfg_cond2_negative=1.5,
        style="regular",
    )
    noise = t.add("RandomNoise", (1080, 0), noise_seed=42)
    sampler = t.add("KSamplerSelect", (1080, 110), sampler_name="euler")
    sigmas = t.add(
        "BasicScheduler",
        (1080, 210),
        model=detokenizer[0],
        scheduler="ddim_uniform",
        steps=50,
        denoise=1.0,
    )
    latent = t.add("EmptyLatentImage", (1080, 360), width=1024, height=1024, batch_size=1)
    sampled = t.add(
        "SamplerCustomAdvanced",
        (1080, 510),
        noise=noise[0],
        guider=guider[0],
        sampler=sampler[0],
        sigmas=sigmas[0],
        latent_image=latent[0],
    )
    saved(t, 1420, sampled, vae)
    t.note(
        "Three branches, as published: the edit with the picture, the picture alone, nothing. "
        "**Dual CFG Guider** in the style *regular* is the same sum: nothing + 1.5 (picture - "
        "nothing) + 7.5 (edit - picture). More of *cfg_cond2_negative* keeps more of the picture.",
        (740, 500),
        (320, 170),
    )
    return t


def visual_question() -> Template:
    t, model, _, _ = seed_x("seed_x_visual_question", "seed_x_i", None)
    source = t.add("LoadImage", (360, 0), image="example.png")
    answer = t.add(
        "TextGenerate",
        (700, 0),
        size=(340, 320),
        clip=model[1],
        prompt="What is in this picture?",
        image=source[0],
        max_length=256,
        sampling_mode="off",
    )
    t.add("PreviewAny", (1080, 0), "Answer", (420, 200), source=answer[0])
    t.note(
        "The picture is read in up to four tiles and as a whole. Several pictures come as a batch; "
        "`<image>` in the text says where each stands.",
        (700, 370),
        (340, 110),
    )
    return t


def find() -> Template:
    t, model, _, _ = seed_x("seed_x_find", "seed_x", None)
    source = t.add("LoadImage", (360, 0), image="example.png")
    answer = t.add(
        "TextGenerate",
        (700, 0),
        size=(340, 320),
        clip=model[1],
        prompt="<image>the dog [[ <box_start>",
        image=source[0],
        max_length=32,
        sampling_mode="off",
        use_default_template=False,
    )
    boxes = t.add("MMGenSeedXBoxes", (1080, 0), answer=answer[0], image=source[0], label="the dog")
    shown = t.add("DrawBBoxes", (1080, 140), image=source[0], bboxes=boxes[0])
    t.add("PreviewAny", (1080, 240), "Answer", (420, 140), source=answer[0])
    t.add(
        "SaveImage",
        (1080, 420),
        size=(420, 420),
        images=shown[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    t.note(
        "The base model is asked in the words of its training, without the template: the phrase, "
        "then an opened box. The answer has four numbers on a grid of 224: the middle of the box, "
        "its width and height.",
        (700, 370),
        (340, 130),
    )
    return t


def redraw() -> Template:
    t, model, detokenizer, vae = seed_x("seed_x_redraw", "seed_x", "draw")
    source = t.add("LoadImage", (360, 0), image="example.png")
    features = t.add("MMGenReadSeedXPicture", (360, 360), model=model[0], image=source[0])
    asked = condition(t, (360, 460), detokenizer, features)
    drawn(t, 740, detokenizer, vae, asked)
    t.note(
        "What SEED-X sees of a picture, drawn again from its 256 features: the content stays, the "
        "pixels are new.",
        (740, 470),
        (320, 100),
    )
    return t


TEMPLATES = (text_to_image, edit, visual_question, find, redraw)
