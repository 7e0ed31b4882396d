"""What the templates of STAR hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_graphs_var import PUBLIC_FILES as VAR_FILES
from template_graphs_var import URL as VAR_URL
from template_parts import Node, Template, box_mask, decode, edit, loaders, refine, sampler

URL = "https://huggingface.co/taocrayon/STAR"

PUBLIC_FILES = {
    **VAR_FILES,
    "MMGenLoadScaleModel": [
        ("star_rope_d30_256-ar-ckpt-ep3-iter20000.pth", URL),
        ("star_rope_d30_512-ar-ckpt-ep1-iter30000.pth", URL),
        ("star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth", URL),
    ],
}

# The files the templates open on, and the side of the picture in pixels. There is no small demo
# model of STAR yet, so they are the public ones; a demo model takes their place here.
FILES = {
    "model": "star_rope_d30_256-ar-ckpt-ep3-iter20000.pth",
    "tokenizer": "vae_ch160v4096z32.pth",
    "text_encoder": "sd21_text_encoder.safetensors",
}
SIDE = 256
TYPE = "stable_diffusion"
PUBLISHED = {"guidance": 4.0, "top_k": 600, "top_p": 0.8}  # of the STAR demo
MODELS_NOTE = f"""## Models

This pack has no small demo model of STAR yet, so this workflow needs the public files ({URL}; \
the code is MIT, the weights name no licence):

- in `ComfyUI/models/mmgen`, model, 256 px: \
[star_rope_d30_256-ar-ckpt-ep3-iter20000.pth]({URL}) (6.7 GB or more)
- or 512 px: [star_rope_d30_512-ar-ckpt-ep1-iter30000.pth]({URL})
- or 1024 px: [star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth]({URL})
- in `ComfyUI/models/mmgen`, tokenizer: \
[vae_ch160v4096z32.pth]({VAR_URL}/resolve/main/vae_ch160v4096z32.pth) (0.4 GB, that of VAR)
- in `ComfyUI/models/text_encoders`: the text encoder of Stable Diffusion 2.1, which is the file \
in `text_encoder/` of its repository and in `CLIP/text_encoder/` of STAR's. It is saved here as \
`sd21_text_encoder.safetensors`; choose yours in **Load CLIP**. **Load Checkpoint** with an \
SD 2.1 checkpoint gives the same encoder."""


def star(name: str) -> tuple[Template, Node, Node, Node]:
    """A template with its note and loaders: model, tokenizer, text encoder."""
    t = Template(name)
    model, tokenizer = loaders(t, FILES["model"], FILES["tokenizer"], 520)
    clip = t.add(
        "CLIPLoader", (0, 300), clip_name=FILES["text_encoder"], type=TYPE, device="default"
    )
    t.note(MODELS_NOTE, (-460, -40), (420, 520))
    return t, model, tokenizer, clip


def encoded(t: Template, position, clip: Node, text: str, title=None, negative: str = "") -> Node:
    return t.add(
        "MMGenEncodeScaleText",
        position,
        title,
        (280, 250),
        clip=clip[0],
        text=text,
        negative=negative,
    )


def drawn(t: Template, position, model: Node, tokenizer: Node, prompt: Node, title=None, **values):
    settings = PUBLISHED | {"prompt": prompt[0]} | values
    return sampler(t, position, model, tokenizer, -1, title, **settings)


def text_to_image() -> Template:
    t, model, tokenizer, clip = star("star_text_to_image")
    prompt = encoded(t, (400, 0), clip, "a red fox sitting in the snow, photograph")
    picture = decode(t, (760, 0), tokenizer, drawn(t, (400, 310), model, tokenizer, prompt, seed=1))
    t.add("SaveImage", (760, 120), size=(420, 460), images=picture[0], filename_prefix="mmgen/star")
    t.note(
        "At most 75 tokens of text, about 60 words: a longer text is an error, nothing is cut "
        "off. Brackets are plain characters, there are no weights.",
        (760, 620),
        (420, 110),
    )
    return t


def four_seeds() -> Template:
    t, model, tokenizer, clip = star("star_four_seeds")
    prompt = encoded(t, (400, 0), clip, "a lighthouse on a cliff at sunset, oil painting")
    sampled = drawn(t, (400, 310), model, tokenizer, prompt, batch_size=4, seed=10)
    picture = decode(t, (760, 0), tokenizer, sampled)
    t.add(
        "SaveImage",
        (760, 120),
        size=(420, 460),
        images=picture[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    t.note(
        "One prompt, four seeds: picture *i* of the batch is the one that seed + *i* gives alone. "
        "Found one? Set *batch_size* to 1 and its seed.",
        (760, 620),
        (420, 110),
    )
    return t


def inpaint() -> Template:
    t, model, tokenizer, clip = star("star_inpaint")
    prompt = encoded(t, (400, 0), clip, "a wooden table by a window", "Text of the source picture")
    sampled = drawn(t, (400, 310), model, tokenizer, prompt, "Draw the source picture", seed=2)
    picture = decode(t, (400, 690), tokenizer, sampled)
    t.group("Source picture", [380, -80, 320, 860], "#A88")
    t.note(
        "To edit **your own picture**, put **Load Image** and **Upscale Image** (to the size the "
        "model draws, crop: center) in place of this group.",
        (380, 820),
        (320, 130),
    )
    quarter = SIDE // 4
    mask = box_mask(t, (740, 0), (quarter, quarter, 2 * quarter, 2 * quarter), SIDE)
    t.group("Mask: white is redrawn", [720, -80, 312, 720], "#AA8")
    wanted = encoded(
        t,
        (0, 480),
        clip,
        "a wooden table by a window, with a vase of yellow flowers on it",
        "Text of the whole edited picture",
    )
    edit(
        t,
        model,
        tokenizer,
        picture,
        mask[0],
        -1,
        **(PUBLISHED | {"smooth": False, "prompt": wanted[0], "seed": 3}),
    )
    t.note(
        "Tokens outside the mask are kept on every scale, those under it are drawn anew from the "
        "text. The STAR authors do not describe this; it is the editing of the VAR paper.",
        (-460, 520),
        (420, 130),
    )
    return t


def sd_refiner() -> Template:
    t, model, tokenizer, clip = star("star_sd_refiner")
    text = "a small wooden house by a mountain lake"
    prompt = encoded(t, (400, 0), clip, text)
    sampled = drawn(t, (400, 310), model, tokenizer, prompt, seed=4)
    picture = decode(t, (400, 690), tokenizer, sampled)
    t.group("STAR draws", [380, -80, 320, 860], "#A88")
    refine(t, picture, "What STAR drew", f"{text}, photograph")
    t.note(
        "STAR composes, any Stable Diffusion checkpoint refines (image to image): choose yours in "
        "**Load Checkpoint**. A lower *denoise* stays closer to what STAR drew.",
        (-460, 520),
        (420, 130),
    )
    return t


TEMPLATES = (text_to_image, inpaint, sd_refiner, four_seeds)
