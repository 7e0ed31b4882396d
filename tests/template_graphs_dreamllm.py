"""What the templates of DreamLLM hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_parts import Node, Template

from mmgen_core.conditioners.dreamllm import POSITIVE_PREFIX

URL = "https://huggingface.co/RunpeiDong/dreamllm-7b-chat-aesthetic-v1.0"
SD_URL = "https://huggingface.co/stabilityai/stable-diffusion-2-1-base"
FOLDER = "dreamllm-7b-chat-aesthetic-v1.0"
LANGUAGE = f"{FOLDER}/model.safetensors.index.json"
CHECKPOINT = "v2-1_512-ema-pruned.safetensors"

PUBLIC_FILES = {
    "MMGenLoadQueryModel": [
        (name, URL, f"mmgen/{FOLDER}")
        for name in (
            "model.safetensors.index.json",
            "clip_vision_embedding.bin",
            "dream_embedding.bin",
            "stable_diffusion_head.bin",
            "config.json",
            "tokenizer.model",
            "added_tokens.json",
        )
    ],
    "CheckpointLoaderSimple": [(CHECKPOINT, SD_URL, "checkpoints")],
}

MODELS_NOTE = f"""## Models

- in `ComfyUI/models/mmgen/{FOLDER}`: the whole repository [{FOLDER}]({URL}) (about 30 GB; weights \
under the conditions of LLaMA, Vicuna and Stable Diffusion 2.1). The language model is its index \
file; the three `.bin` files and the tokenizer are found beside it.
- in `ComfyUI/models/checkpoints`: [Stable Diffusion 2.1-base]({SD_URL}), \
`{CHECKPOINT}` (5 GB). DreamLLM was trained against exactly this UNet, which stayed frozen.

At this size there is no demo model: the language model alone has 6.7 billion weights, 13.5 GB in \
bf16. A picture reads them once, so a smaller card may stream them."""


def dreamllm(name: str) -> tuple[Template, Node, Node]:
    """A template with its note and loaders: DreamLLM, Stable Diffusion 2.1-base."""
    t = Template(name)
    t.group("Models", [-20, -80, 320, 420])
    model = t.add("MMGenLoadQueryModel", (0, 0), language_model=LANGUAGE, dtype="auto")
    checkpoint = t.add("CheckpointLoaderSimple", (0, 200), ckpt_name=CHECKPOINT)
    t.note(MODELS_NOTE, (-460, -40), (420, 380))
    return t, model, checkpoint


def queries(t: Template, position, model: Node, checkpoint: Node, text: str, **values) -> Node:
    return t.add(
        "MMGenDreamQueries",
        position,
        size=(320, 280),
        model=model[0],
        text=text,
        diffusion_model=checkpoint[0],
        **({"negative": ""} | values),
    )


def saved(t: Template, x: int, latent: Node, checkpoint: Node) -> None:
    picture = t.add("VAEDecode", (x, 0), samples=latent[0], vae=checkpoint[2])
    prefix = f"mmgen/{t.name}"
    t.add("SaveImage", (x, 80), size=(420, 460), images=picture[0], filename_prefix=prefix)


def text_to_image() -> Template:
    t, model, checkpoint = dreamllm("dreamllm_text_to_image")
    text = "a photo of an astronaut riding a horse on mars"
    asked = queries(t, (360, 0), model, checkpoint, text)
    latent = t.add("EmptyLatentImage", (360, 330), width=512, height=512, batch_size=1)
    drawn = t.add(
        "KSampler",
        (740, 0),
        model=checkpoint[0],
        seed=42,
        steps=50,
        cfg=7.5,
        sampler_name="ddpm",
        scheduler="ddim_uniform",
        positive=asked[0],
        negative=asked[1],
        latent_image=latent[0],
        denoise=1.0,
    )
    saved(t, 1080, drawn, checkpoint)
    t.note(
        "The language model reads the caption and its 64 dream queries in one pass, and the empty "
        "caption with it; their states take the place of the text encoder's. *ddpm* with "
        "*ddim_uniform* at 50 or 100 steps has the published noise levels; any other sampler "
        "works.",
        (360, 480),
        (700, 110),
    )
    return t


def published_script() -> Template:
    t, model, checkpoint = dreamllm("dreamllm_published_script")
    negative = (
        "ugly, duplicate, mutated hands, poorly drawn hands, blurry, bad anatomy, bad "
        "proportions, extra limbs, cloned face, disfigured, low resolution, worst quality"
    )
    asked = queries(
        t,
        (360, 0),
        model,
        checkpoint,
        f"{POSITIVE_PREFIX}a cute cat in a garden full of flowers",
        negative=negative,
    )
    latent = t.add("EmptyLatentImage", (360, 330), width=512, height=512, batch_size=1)
    sigmas = t.add("MMGenDreamSigmas", (740, 0), steps=150)
    sampler = t.add("KSamplerSelect", (740, 110), sampler_name="ddpm")
    drawn = t.add(
        "SamplerCustom",
        (740, 220),
        model=checkpoint[0],
        add_noise=True,
        noise_seed=42,
        cfg=3.5,
        positive=asked[0],
        negative=asked[1],
        sampler=sampler[0],
        sigmas=sigmas[0],
        latent_image=latent[0],
    )
    saved(t, 1080, drawn, checkpoint)
    t.note(
        "The published script: 150 steps, which begin at noise level 895 of 1000 and therefore "
        "need noise levels of their own, guidance 3.5, its words before every caption, and a "
        "negative caption of the usual kind (its own is longer).",
        (360, 480),
        (360, 110),
    )
    return t


def story() -> Template:
    t, model, checkpoint = dreamllm("dreamllm_story")
    told = t.add(
        "MMGenTellStory",
        (360, 0),
        size=(340, 620),
        model=model[0],
        max_tokens=256,
        temperature=0.7,
        top_k=0,
        top_p=0.9,
        seed=1,
        text="A short picture book. Once upon a time there was a little fox who wanted to see the "
        "sea.",
        diffusion_model=checkpoint[0],
        vae=checkpoint[2],
        max_pictures=4,
        width=512,
        height=512,
        steps=50,
        cfg=7.5,
        sampler_name="ddpm",
        scheduler="ddim_uniform",
    )
    parts = t.add("MMGenStoryParts", (740, 0), story=told[0])
    t.add("PreviewAny", (740, 130), "Texts, one per turn", (420, 260), source=parts[0])
    t.add(
        "SaveImage",
        (740, 440),
        "Pictures, in order",
        (420, 460),
        images=parts[1],
        filename_prefix=f"mmgen/{t.name}",
    )
    t.note(
        "The model writes until it asks for a picture, the picture is drawn by the stock KSampler, "
        "and the model sees it before it goes on. Texts and pictures come as lists.",
        (360, 670),
        (340, 130),
    )
    return t


def story_turns() -> Template:
    t, model, checkpoint = dreamllm("dreamllm_story_by_hand")
    latent = t.add("EmptyLatentImage", (0, 330), width=512, height=512, batch_size=1)
    before, picture = None, None
    for turn in range(2):
        x = 360 + 720 * turn
        links = {} if before is None else {"story": before[0], "picture": picture[0]}
        before = t.add(
            "MMGenStoryTurn",
            (x, 0),
            f"Turn {turn + 1}",
            (320, 420),
            model=model[0],
            max_tokens=256,
            temperature=0.7,
            top_k=0,
            top_p=0.9,
            seed=turn + 1,
            text="" if turn else "How to bake an apple pie, step by step, with pictures.",
            **links,
        )
        drawn = t.add(
            "KSampler",
            (x, 470),
            model=checkpoint[0],
            seed=turn + 1,
            steps=50,
            cfg=7.5,
            sampler_name="ddpm",
            scheduler="ddim_uniform",
            positive=before[2],
            negative=before[3],
            latent_image=latent[0],
            denoise=1.0,
        )
        picture = t.add("VAEDecode", (x + 360, 470), samples=drawn[0], vae=checkpoint[2])
        t.add("PreviewAny", (x + 360, 0), f"Text {turn + 1}", (320, 160), source=before[1])
        t.add(
            "SaveImage",
            (x + 360, 560),
            size=(320, 360),
            images=picture[0],
            filename_prefix=f"mmgen/{t.name}",
        )
    t.note(
        "The same as **Tell Story**, turn by turn: change a text, redraw a picture, put another "
        "sampler in between. Where a turn asks for no picture, the nodes behind it do not run.",
        (-460, 360),
        (420, 130),
    )
    return t


TEMPLATES = (text_to_image, published_script, story, story_turns)
