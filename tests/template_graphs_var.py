"""What the templates of VAR hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_parts import Node, Template, box_mask, decode, edit, loaders, refine, sampler

URL = "https://huggingface.co/FoundationVision/var"
SD_URL = "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive"
PUBLIC_FILES = {
    "MMGenLoadScaleModel": [(f"var_d{depth}.pth", URL) for depth in (16, 20, 24, 30, 36)],
    "MMGenLoadImageTokenizer": [("vae_ch160v4096z32.pth", URL)],
    "CheckpointLoaderSimple": [("v1-5-pruned-emaonly-fp16.safetensors", SD_URL, "checkpoints")],
}
MODEL, TOKENIZER = "mmgen_demo_var.safetensors", "mmgen_demo_vae.safetensors"
# What the demo model draws best with; the nodes' own defaults are those of the public models.
DEMO = {"guidance": 1.5, "top_k": 0, "top_p": 0.6, "smooth": False}
MODELS_NOTE = f"""## Models

The demo models in this pack draw emoji-like pictures of 64 x 64 pixels, so the workflow runs \
at once.

For photographs, put these public files into `ComfyUI/models/mmgen` and choose them in the two \
loaders (MIT licence, {URL}):

- tokenizer: [vae_ch160v4096z32.pth]({URL}/resolve/main/vae_ch160v4096z32.pth) (0.4 GB)
- model, 256 px: [var_d16.pth]({URL}/resolve/main/var_d16.pth) (1.2 GB), \
[var_d20.pth]({URL}/resolve/main/var_d20.pth) (2.4 GB), \
[var_d24.pth]({URL}/resolve/main/var_d24.pth) (4.1 GB), \
[var_d30.pth]({URL}/resolve/main/var_d30.pth) (8.0 GB)
- model, 512 px: [var_d36.pth]({URL}/resolve/main/var_d36.pth) (9.4 GB)

They know the 1000 ImageNet classes: write such a name into **Class by Name**, for example \
*volcano*. Set the sampler to *guidance* 4, *top_k* 900, *top_p* 0.95 for them; the values here \
suit the demo model."""


def class_by_name(template: Template, position, model: Node, name: str, title=None) -> Node:
    return template.add("MMGenClassByName", position, title, model=model[0], name=name)


def class_to_image() -> Template:
    t = Template("var_class_to_image")
    model, tokenizer = loaders(t, MODEL, TOKENIZER)
    found = class_by_name(t, (400, 0), model, "Santa Claus")
    settings = {"batch_size": 4, "seed": 1} | DEMO
    drawn = sampler(t, (400, 180), model, tokenizer, found[0], **settings)
    picture = decode(t, (760, 0), tokenizer, drawn)
    t.add("SaveImage", (760, 120), size=(420, 460), images=picture[0], filename_prefix="mmgen/var")
    t.add("MMGenImageNetClass", (0, 420), imagenet_class="0980 volcano")
    t.group("For the public models", [-20, 340, 320, 190], "#8A8")
    t.note(MODELS_NOTE, (-460, -40), (420, 430))
    t.note(
        "**ImageNet Class** is an alternative to Class by Name once a public model is loaded: "
        "connect its output to *class_id* of the sampler.",
        (-460, 440),
        (420, 110),
    )
    return t


def source_picture(t: Template, model: Node, tokenizer: Node, name: str, seed: int) -> Node:
    """The picture to edit is drawn first, so that the template runs on a fresh server."""
    found = class_by_name(t, (400, 0), model, name, "Class of the source picture")
    title = "Draw the source picture"
    drawn = sampler(t, (400, 160), model, tokenizer, found[0], title, seed=seed, **DEMO)
    picture = decode(t, (400, 530), tokenizer, drawn)
    t.group("Source picture", [380, -80, 320, 720], "#A88")
    t.note(
        "To edit **your own picture**, put **Load Image** and **Upscale Image** (to the size the "
        "model draws, crop: center) in place of this group.",
        (380, 690),
        (320, 130),
    )
    return picture


def inpaint() -> Template:
    t = Template("var_inpaint")
    model, tokenizer = loaders(t, MODEL, TOKENIZER)
    picture = source_picture(t, model, tokenizer, "police officer", 1)
    mask = box_mask(t, (740, 0), (32, 64, 64, 48))
    t.group("Mask: white is redrawn", [720, -80, 312, 720], "#AA8")
    edit(t, model, tokenizer, picture, mask[0], -1, seed=2, **DEMO)
    t.note(MODELS_NOTE, (-460, -40), (420, 430))
    t.note(
        "In-painting without a class (*class_id* -1). Instead of the box, a mask painted on "
        "**Load Image** works as well. The 512 px model (var_d36) gives the best results.",
        (-20, 380),
        (320, 140),
    )
    return t


def outpaint() -> Template:
    t = Template("var_outpaint")
    model, tokenizer = loaders(t, MODEL, TOKENIZER)
    picture = source_picture(t, model, tokenizer, "heart", 3)
    mask = box_mask(t, (740, 0), (24, 24, 80, 80))
    outside = t.add("InvertMask", (740, 520), mask=mask[0])
    t.group("Mask: white is redrawn", [720, -80, 312, 720], "#AA8")
    edit(t, model, tokenizer, picture, outside[0], -1, seed=4, **DEMO)
    t.note(MODELS_NOTE, (-460, -40), (420, 430))
    t.note(
        "Out-painting keeps the box and redraws what is around it: the mask is inverted.",
        (-20, 380),
        (320, 110),
    )
    return t


def class_edit() -> Template:
    t = Template("var_class_edit")
    model, tokenizer = loaders(t, MODEL, TOKENIZER)
    picture = source_picture(t, model, tokenizer, "police officer", 5)
    found = class_by_name(t, (0, 400), model, "firefighter", "Class to draw under the mask")
    mask = box_mask(t, (740, 0), (16, 0, 96, 80))
    t.group("Mask: white is redrawn", [720, -80, 312, 720], "#AA8")
    edit(t, model, tokenizer, picture, mask[0], found[0], seed=6, **DEMO)
    t.note(MODELS_NOTE, (-460, -40), (420, 430))
    t.note(
        "Zero-shot class editing: the area under the mask becomes another class, in keeping "
        "with the rest of the picture.",
        (-20, 520),
        (320, 110),
    )
    return t


def variation() -> Template:
    t = Template("var_variation")
    model, tokenizer = loaders(t, MODEL, TOKENIZER)
    picture = source_picture(t, model, tokenizer, "construction worker", 7)
    tokens = t.add(
        "MMGenEncodeImage", (740, 0), tokenizer=tokenizer[0], image=picture[0], model=model[0]
    )
    found = class_by_name(t, (740, 130), model, "construction worker", "Class of the variations")
    varied = sampler(
        t,
        (740, 280),
        model,
        tokenizer,
        found[0],
        "Draw variations",
        start_tokens=tokens[0],
        keep_scales=3,
        batch_size=4,
        seed=8,
        **DEMO,
    )
    result = decode(t, (1100, 0), tokenizer, varied)
    t.add(
        "SaveImage",
        (1100, 120),
        size=(420, 480),
        images=result[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    maps = t.add("MMGenViewTokens", (1560, 0), tokens=tokens[0], map_size=128)
    t.add("PreviewImage", (1560, 120), "Code maps of the source", (300, 300), images=maps[0])
    t.add("MMGenSaveTokens", (1560, 460), tokens=tokens[0], filename_prefix="mmgen")
    t.add(
        "MMGenLoadTokens",
        (1560, 600),
        tokens_name="tokens/mmgen_00001_.tokens.safetensors [output]",
    )
    t.group("Tokens", [1540, -80, 380, 820], "#88A")
    t.note(MODELS_NOTE, (-460, -40), (420, 430))
    t.note(
        "*keep_scales* is how many of the coarsest scales stay: more keeps more of the layout. "
        "**Load Image Tokens** brings saved tokens back: connect it to *start_tokens*.",
        (-20, 380),
        (320, 140),
    )
    return t


def sd_refiner() -> Template:
    t = Template("var_sd_refiner")
    model, tokenizer = loaders(t, MODEL, TOKENIZER)
    found = class_by_name(t, (400, 0), model, "tree")
    drawn = sampler(t, (400, 160), model, tokenizer, found[0], seed=9, **DEMO)
    picture = decode(t, (400, 530), tokenizer, drawn)
    t.group("VAR draws", [380, -80, 320, 720], "#A88")
    refine(t, picture, "What VAR drew", "a photograph of a large tree on a meadow")
    t.note(MODELS_NOTE, (-460, -40), (420, 430))
    t.note(
        "VAR composes, any Stable Diffusion checkpoint refines (image to image). This template "
        "needs one in `models/checkpoints`: choose yours in **Load Checkpoint**. A lower "
        "*denoise* stays closer to what VAR drew.",
        (-20, 380),
        (320, 170),
    )
    return t


TEMPLATES = (class_to_image, inpaint, outpaint, class_edit, variation, sd_refiner)
