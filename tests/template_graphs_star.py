"""What the templates of STAR hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_graphs_var import PUBLIC_FILES as VAR_FILES
from template_graphs_var import URL as VAR_URL
from template_parts import Node, Template, box_mask, decode, edit, loaders, refine, sampler

URL = "https://huggingface.co/taocrayon/STAR"

SD21_URL = "https://huggingface.co/stabilityai/stable-diffusion-2-1"

PUBLIC_FILES = {
    **VAR_FILES,
    "MMGenLoadScaleModel": [
        ("star_rope_d30_256-ar-ckpt-ep3-iter20000.pth", URL),
        ("star_rope_d30_512-ar-ckpt-ep1-iter30000.pth", URL),
        ("star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth", URL),
    ],
    "MMGenLoadTextEncoder": [("text_encoder/model.safetensors", SD21_URL, "text_encoders")],
}

# The files the templates open on, and the side of the picture in pixels.
FILES = {
    "model": "mmgen_demo_star.safetensors",
    "tokenizer": "mmgen_demo_vae.safetensors",
    "text_encoder": "mmgen_demo_text.safetensors",
}
SIDE = 64
# What the demo model draws best with; those of the public models stand in the note.
DEMO = {"guidance": 1.5, "top_k": 0, "top_p": 0.5, "smooth": False}
MODELS_NOTE = f"""## Models

The demo models in this pack draw emoji-like pictures of 64 x 64 pixels, so the workflow runs \
at once. They know some 300 motifs in two styles: end the text with *noto style* or *fluent style*.

For photographs and paintings choose these public files in the three loaders ({URL}; the code is \
MIT, the weights name no licence):

- in `ComfyUI/models/mmgen`, model, 256 px: \
[star_rope_d30_256-ar-ckpt-ep3-iter20000.pth]({URL}) (6.7 GB or more)
- or 512 px: [star_rope_d30_512-ar-ckpt-ep1-iter30000.pth]({URL})
- or 1024 px: [star_rope_d30_1024_drop_3-ar-ckpt-ep1-iter21000.pth]({URL})
- in `ComfyUI/models/mmgen`, tokenizer: \
[vae_ch160v4096z32.pth]({VAR_URL}/resolve/main/vae_ch160v4096z32.pth) (0.4 GB, that of VAR)
- in `ComfyUI/models/text_encoders`: the text encoder of Stable Diffusion 2.1, which is the file \
in `text_encoder/` of its repository ({SD21_URL}) and in `CLIP/text_encoder/` of STAR's. The stock \
**Load CLIP** and **Load Checkpoint** (with an SD 2.1 checkpoint) give the same encoder.

Set the sampler to *guidance* 4, *top_k* 600, *top_p* 0.8 and *own_attention* off for them; the \
values here suit the demo model."""


def star(name: str) -> tuple[Template, Node, Node, Node]:
    """A template with its note and loaders: model, tokenizer, text encoder."""
    t = Template(name)
    model, tokenizer = loaders(t, FILES["model"], FILES["tokenizer"], 480)
    clip = t.add("MMGenLoadTextEncoder", (0, 300), text_encoder_name=FILES["text_encoder"])
    t.note(MODELS_NOTE, (-460, -40), (420, 540))
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
        own_attention=True,
    )


def drawn(t: Template, position, model: Node, tokenizer: Node, prompt: Node, title=None, **values):
    settings = DEMO | {"prompt": prompt[0]} | values
    return sampler(t, position, model, tokenizer, -1, title, **settings)


def text_to_image() -> Template:
    t, model, tokenizer, clip = star("star_text_to_image")
    prompt = encoded(t, (400, 0), clip, "red heart, noto style")
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
    prompt = encoded(t, (400, 0), clip, "heart")
    varied = {"guidance": 1.0, "top_p": 0.9, "batch_size": 4, "seed": 10}
    sampled = drawn(t, (400, 310), model, tokenizer, prompt, **varied)
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
        "Found one? Set *batch_size* to 1 and its seed. The text names neither colour nor style, "
        "and *top_p* is higher than in the other templates, so the seeds differ.",
        (760, 620),
        (420, 110),
    )
    return t


def inpaint() -> Template:
    t, model, tokenizer, clip = star("star_inpaint")
    prompt = encoded(t, (400, 0), clip, "mountain, noto style", "Text of the source picture")
    sampled = drawn(t, (400, 310), model, tokenizer, prompt, "Draw the source picture", seed=2)
    picture = decode(t, (400, 690), tokenizer, sampled)
    t.group("Source picture", [380, -80, 320, 860], "#A88")
    t.note(
        "To edit **your own picture**, put **Load Image** and **Upscale Image** (to the size the "
        "model draws, crop: center) in place of this group.",
        (380, 820),
        (320, 130),
    )
    box = 0, 0, SIDE, SIDE // 2  # the upper half
    mask = box_mask(t, (740, 0), box, SIDE)
    t.group("Mask: white is redrawn", [720, -80, 312, 720], "#AA8")
    wanted = encoded(
        t,
        (0, 480),
        clip,
        "volcano, noto style",
        "Text of the whole edited picture",
    )
    edit(
        t,
        model,
        tokenizer,
        picture,
        mask[0],
        -1,
        **(DEMO | {"prompt": wanted[0], "seed": 3}),
    )
    t.note(
        "Tokens outside the mask are kept on every scale, those under it are drawn anew from the "
        "text. The STAR authors do not describe this; it is the editing of the VAR paper.",
        (-460, 530),
        (420, 130),
    )
    return t


def sd_refiner() -> Template:
    t, model, tokenizer, clip = star("star_sd_refiner")
    text = "a sailboat"
    prompt = encoded(t, (400, 0), clip, f"{text}, noto style")
    sampled = drawn(t, (400, 310), model, tokenizer, prompt, seed=4)
    picture = decode(t, (400, 690), tokenizer, sampled)
    t.group("STAR draws", [380, -80, 320, 860], "#A88")
    refine(t, picture, "What STAR drew", f"{text}, photograph")
    t.note(
        "STAR composes, any Stable Diffusion checkpoint refines (image to image): choose yours in "
        "**Load Checkpoint**. A lower *denoise* stays closer to what STAR drew.",
        (-460, 530),
        (420, 130),
    )
    return t


TEMPLATES = (text_to_image, inpaint, sd_refiner, four_seeds)
