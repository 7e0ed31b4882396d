"""What the templates of VAR hold: nodes, positions, links, notes."""

from __future__ import annotations

from dataclasses import dataclass, field

URL = "https://huggingface.co/FoundationVision/var"
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
*volcano*."""


@dataclass
class Node:
    id: int
    kind: str
    position: tuple[int, int]
    values: dict
    title: str | None = None
    size: tuple[int, int] | None = None

    def __getitem__(self, slot: int) -> tuple[Node, int]:
        return self, slot


@dataclass
class Template:
    name: str
    nodes: list[Node] = field(default_factory=list)
    notes: list[tuple[str, tuple[int, int], tuple[int, int]]] = field(default_factory=list)
    groups: list[tuple[str, list[int], str]] = field(default_factory=list)

    def add(self, kind: str, position: tuple[int, int], title=None, size=None, **values) -> Node:
        node = Node(len(self.nodes) + 1, kind, position, values, title, size)
        self.nodes.append(node)
        return node

    def note(self, text: str, position: tuple[int, int], size: tuple[int, int]) -> None:
        self.notes.append((text, position, size))

    def group(self, title: str, bounding: list[int], color: str = "#3f789e") -> None:
        self.groups.append((title, bounding, color))


def loaders(template: Template, at: tuple[int, int] = (0, 0)) -> tuple[Node, Node]:
    x, y = at
    model = template.add(
        "MMGenLoadScaleModel", (x, y), model_name="mmgen_demo_var.safetensors", dtype="auto"
    )
    tokenizer = template.add(
        "MMGenLoadImageTokenizer",
        (x, y + 150),
        tokenizer_name="mmgen_demo_vae.safetensors",
        dtype="auto",
    )
    template.group("Models", [x - 20, y - 80, 320, 400])
    return model, tokenizer


def sampler(template: Template, position, model, tokenizer, class_id, title=None, **values) -> Node:
    settings = {
        "seed": 0,
        "guidance": 4.0,
        "top_k": 900,
        "top_p": 0.95,
        "smooth": False,
        "batch_size": 1,
        "keep_scales": 0,
    }
    return template.add(
        "MMGenScaleSampler",
        position,
        title,
        model=model[0],
        tokenizer=tokenizer[0],
        class_id=class_id,
        **(settings | values),
    )


def decode(template: Template, position, tokenizer: Node, tokens: Node) -> Node:
    return template.add("MMGenDecodeTokens", position, tokenizer=tokenizer[0], tokens=tokens[0])


def class_by_name(template: Template, position, model: Node, name: str, title=None) -> Node:
    return template.add("MMGenClassByName", position, title, model=model[0], name=name)


def class_to_image() -> Template:
    t = Template("var_class_to_image")
    model, tokenizer = loaders(t)
    found = class_by_name(t, (400, 0), model, "smiling face")
    drawn = sampler(t, (400, 180), model, tokenizer, found[0], batch_size=4, seed=1)
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
    drawn = sampler(t, (400, 160), model, tokenizer, found[0], title, seed=seed)
    picture = decode(t, (400, 530), tokenizer, drawn)
    t.group("Source picture", [380, -80, 320, 720], "#A88")
    t.note(
        "To edit **your own picture**, put **Load Image** and **Upscale Image** (to the size the "
        "model draws, crop: center) in place of this group.",
        (380, 690),
        (320, 130),
    )
    return picture


def box_mask(t: Template, position, box: tuple[int, int, int, int], side: int = 128) -> Node:
    """White in the box (left, top, width, height), black elsewhere."""
    x, y = position
    black = t.add("SolidMask", (x, y), value=0.0, width=side, height=side)
    white = t.add("SolidMask", (x, y + 150), value=1.0, width=box[2], height=box[3])
    return t.add(
        "MaskComposite",
        (x, y + 300),
        destination=black[0],
        source=white[0],
        x=box[0],
        y=box[1],
        operation="add",
    )


def edit(
    t: Template, model: Node, tokenizer: Node, picture: Node, mask: tuple[Node, int], class_id, seed
) -> None:
    """Encode, mask, redraw, decode, and put the untouched pixels back."""
    tokens = t.add(
        "MMGenEncodeImage", (1060, 0), tokenizer=tokenizer[0], image=picture[0], model=model[0]
    )
    masked = t.add("MMGenTokenMask", (1060, 130), tokens=tokens[0], mask=mask, coverage=0.1)
    redrawn = sampler(
        t,
        (1060, 280),
        model,
        tokenizer,
        class_id,
        "Redraw under the mask",
        start_tokens=masked[0],
        guidance=3.0,
        smooth=True,
        seed=seed,
    )
    result = decode(t, (1400, 0), tokenizer, redrawn)
    pasted = t.add(
        "ImageCompositeMasked",
        (1400, 120),
        "Put untouched pixels back",
        destination=picture[0],
        source=result[0],
        x=0,
        y=0,
        resize_source=False,
        mask=masked[1],
    )
    t.add("PreviewImage", (1400, 330), "Source picture", (260, 300), images=picture[0])
    t.add(
        "SaveImage", (1700, 0), size=(420, 480), images=pasted[0], filename_prefix=f"mmgen/{t.name}"
    )
    t.group("Redraw", [1040, -80, 320, 720], "#88A")


def inpaint() -> Template:
    t = Template("var_inpaint")
    model, tokenizer = loaders(t)
    picture = source_picture(t, model, tokenizer, "smiling face", 1)
    mask = box_mask(t, (740, 0), (32, 64, 64, 48))
    t.group("Mask: white is redrawn", [720, -80, 312, 720], "#AA8")
    edit(t, model, tokenizer, picture, mask[0], -1, 2)
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
    model, tokenizer = loaders(t)
    picture = source_picture(t, model, tokenizer, "flower", 3)
    mask = box_mask(t, (740, 0), (24, 24, 80, 80))
    outside = t.add("InvertMask", (740, 520), mask=mask[0])
    t.group("Mask: white is redrawn", [720, -80, 312, 720], "#AA8")
    edit(t, model, tokenizer, picture, outside[0], -1, 4)
    t.note(MODELS_NOTE, (-460, -40), (420, 430))
    t.note(
        "Out-painting keeps the box and redraws what is around it: the mask is inverted.",
        (-20, 380),
        (320, 110),
    )
    return t


def class_edit() -> Template:
    t = Template("var_class_edit")
    model, tokenizer = loaders(t)
    picture = source_picture(t, model, tokenizer, "cat", 5)
    found = class_by_name(t, (0, 400), model, "heart", "Class to draw under the mask")
    mask = box_mask(t, (740, 0), (24, 24, 80, 80))
    t.group("Mask: white is redrawn", [720, -80, 312, 720], "#AA8")
    edit(t, model, tokenizer, picture, mask[0], found[0], 6)
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
    model, tokenizer = loaders(t)
    picture = source_picture(t, model, tokenizer, "flower", 7)
    tokens = t.add(
        "MMGenEncodeImage", (740, 0), tokenizer=tokenizer[0], image=picture[0], model=model[0]
    )
    found = class_by_name(t, (740, 130), model, "flower", "Class of the variations")
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
    model, tokenizer = loaders(t)
    found = class_by_name(t, (400, 0), model, "tree")
    drawn = sampler(t, (400, 160), model, tokenizer, found[0], seed=9)
    picture = decode(t, (400, 530), tokenizer, drawn)
    t.group("VAR draws", [380, -80, 320, 720], "#A88")
    large = t.add(
        "ImageScale",
        (740, 0),
        image=picture[0],
        upscale_method="lanczos",
        width=512,
        height=512,
        crop="disabled",
    )
    checkpoint = t.add(
        "CheckpointLoaderSimple", (740, 220), ckpt_name="v1-5-pruned-emaonly-fp16.safetensors"
    )
    positive = t.add(
        "CLIPTextEncode",
        (1100, 0),
        "Positive prompt",
        (320, 140),
        text="a photograph of a large tree on a meadow, soft light, detailed",
        clip=checkpoint[1],
    )
    negative = t.add(
        "CLIPTextEncode",
        (1100, 190),
        "Negative prompt",
        (320, 120),
        text="blurry, text, watermark",
        clip=checkpoint[1],
    )
    latent = t.add("VAEEncode", (740, 370), pixels=large[0], vae=checkpoint[2])
    refined = t.add(
        "KSampler",
        (1100, 360),
        model=checkpoint[0],
        seed=10,
        steps=20,
        cfg=7.0,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        positive=positive[0],
        negative=negative[0],
        latent_image=latent[0],
        denoise=0.55,
    )
    result = t.add("VAEDecode", (1460, 0), samples=refined[0], vae=checkpoint[2])
    t.add("PreviewImage", (1460, 120), "What VAR drew", (260, 300), images=picture[0])
    t.add(
        "SaveImage", (1760, 0), size=(420, 480), images=result[0], filename_prefix=f"mmgen/{t.name}"
    )
    t.group("Stable Diffusion refines", [720, -80, 720, 720], "#88A")
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
