"""What the templates of Show-o hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_parts import Node, Template, box_mask, decode

URL, URL512 = (
    "https://huggingface.co/showlab/show-o",
    "https://huggingface.co/showlab/show-o-512x512",
)
TOKENIZER_URL = "https://huggingface.co/showlab/magvitv2"
PHI_URL = "https://huggingface.co/microsoft/phi-1_5"
FILE = "pytorch_model.bin"
PUBLIC_FILES = {
    "MMGenLoadMaskedModel": [
        (FILE, URL, "mmgen/show-o"),
        (FILE, URL512, "mmgen/show-o-512x512"),
    ],
    "MMGenLoadImageTokenizer": [(FILE, TOKENIZER_URL, "mmgen/magvitv2")],
}
MODEL, TOKENIZER = "mmgen_demo_show_o.safetensors", "mmgen_demo_magvit.safetensors"
SIDE = 64
# What the demo model draws best with; those of the public models stand in the note.
DEMO = {"steps": 20, "guidance": 1.0, "temperature": 1.5, "schedule": "cosine", "top_k": 2}
MODELS_NOTE = f"""## Models

The demo models in this pack draw emoji-like pictures of 64 x 64 pixels, so the workflow runs \
at once. They know 190 motifs (hearts, shapes, faces, animals, plants, fruit, food, sky) in two \
styles: end the text with *noto style* or *fluent style*.

For real pictures make these folders in `ComfyUI/models/mmgen` and choose the files in the two \
loaders (Apache-2.0):

- `show-o/`: [pytorch_model.bin]({URL}/resolve/main/{FILE}) and [config.json]\
({URL}/resolve/main/config.json) (256 px, 5.8 GB), or `show-o-512x512/` from {URL512} (512 px)
- `magvitv2/`: [pytorch_model.bin]({TOKENIZER_URL}/resolve/main/{FILE}) (0.4 GB)
- `tokenizer/`: [tokenizer.json]({PHI_URL}/resolve/main/tokenizer.json) of phi-1_5

Set *temperature* 1 and *top_k* 0 for them, *guidance* 1.75 and *steps* 16 for 256 px, *guidance* \
5 and *steps* 50 for 512 px."""


def show_o(name: str) -> tuple[Template, Node, Node]:
    """A template with its note and loaders: model, tokenizer."""
    t = Template(name)
    t.group("Models", [-20, -80, 320, 400])
    model = t.add("MMGenLoadMaskedModel", (0, 0), model_name=MODEL, dtype="auto")
    tokenizer = t.add("MMGenLoadImageTokenizer", (0, 150), tokenizer_name=TOKENIZER, dtype="auto")
    t.note(MODELS_NOTE, (-460, -40), (420, 480))
    return t, model, tokenizer


def sampler(t: Template, position, model, tokenizer, text: str, title=None, **values) -> Node:
    return t.add(
        "MMGenMaskedSampler",
        position,
        title,
        (320, 420),
        model=model[0],
        tokenizer=tokenizer[0],
        text=text,
        **({"seed": 0, "batch_size": 1} | DEMO | values),
    )


def saved(t: Template, position, picture: Node) -> Node:
    return t.add(
        "SaveImage",
        position,
        size=(420, 480),
        images=picture[0],
        filename_prefix=f"mmgen/{t.name}",
    )


def text_to_image() -> Template:
    t, model, tokenizer = show_o("show_o_text_to_image")
    text = "red heart, noto style"
    drawn = sampler(t, (360, 0), model, tokenizer, text, batch_size=4, seed=1)
    picture = decode(t, (720, 0), tokenizer, drawn)
    saved(t, (720, 120), picture)
    t.note(
        "All codes of the picture are drawn at once, the surest stay, and the rest is drawn again: "
        "*steps* passes in all, a live picture after each.",
        (-20, 360),
        (320, 120),
    )
    return t


def source(t: Template, model: Node, tokenizer: Node, text: str, seed: int) -> Node:
    """The picture to go on from is drawn first, so that the template runs on a fresh server."""
    drawn = sampler(t, (360, 0), model, tokenizer, text, "Draw the source picture", seed=seed)
    picture = decode(t, (360, 480), tokenizer, drawn)
    t.group("Source picture", [340, -80, 360, 690], "#A88")
    t.note(
        "For **your own picture**, put **Load Image** and **Upscale Image** (to the size the model "
        "draws, crop: center) in place of this group.",
        (340, 640),
        (360, 110),
    )
    return picture


def inpaint() -> Template:
    t, model, tokenizer = show_o("show_o_inpaint")
    picture = source(t, model, tokenizer, "grinning face, noto style", 1)
    tokens = t.add("MMGenEncodeImage", (740, 0), tokenizer=tokenizer[0], image=picture[0])
    mask = box_mask(t, (740, 130), (32, 56, 64, 56))
    t.group("Mask: white is redrawn", [720, -80, 312, 690], "#AA8")
    redrawn = sampler(
        t,
        (1060, 0),
        model,
        tokenizer,
        "face with tongue, noto style",
        "Redraw under the mask",
        seed=2,
        start_tokens=tokens[0],
        mask=mask[0],
    )
    result = decode(t, (1060, 480), tokenizer, redrawn)
    t.add("PreviewImage", (1420, 520), "Source picture", (260, 300), images=picture[0])
    saved(t, (1420, 0), result)
    t.note(
        "Tokens outside of the mask stay as they are. To keep its pixels as well, add the stock "
        "**Image Composite Masked**, as the VAR template for in-painting shows.",
        (-20, 360),
        (320, 120),
    )
    return t


def panorama() -> Template:
    t, model, tokenizer = show_o("show_o_panorama")
    picture = source(t, model, tokenizer, "deciduous tree, noto style", 3)
    tokens = t.add("MMGenEncodeImage", (740, 0), tokenizer=tokenizer[0], image=picture[0])
    wide = t.add(
        "MMGenExtrapolate",
        (740, 130),
        None,
        (360, 380),
        model=model[0],
        tokenizer=tokenizer[0],
        tokens=tokens[0],
        steps_text="right: evergreen tree, noto style\nright: cloud, noto style\n"
        "left: palm tree, noto style",
        seed=4,
        **DEMO,
    )
    result = decode(t, (740, 560), tokenizer, wide)
    t.add("PreviewImage", (1140, 520), "Source picture", (260, 300), images=picture[0])
    t.add(
        "SaveImage",
        (1140, 0),
        size=(640, 440),
        images=result[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    t.note(
        "One line per step: a direction and what is to be there. Each step adds half of what the "
        "model draws; *left*, *right*, *up* and *down* may come in any order.",
        (-20, 360),
        (320, 130),
    )
    return t


def question() -> Template:
    t, model, tokenizer = show_o("show_o_question")
    picture = source(t, model, tokenizer, "red apple, fluent style", 5)
    clip = t.add("MMGenMaskedClip", (740, 0), model=model[0], tokenizer=tokenizer[0])
    asked = t.add(
        "TextGenerate",
        (740, 150),
        None,
        (320, 300),
        clip=clip[0],
        prompt="What is this?",
        image=picture[0],
        max_length=100,
        sampling_mode="off",
        thinking=False,
        use_default_template=True,
    )
    t.add("PreviewAny", (1100, 0), "Answer", (320, 160), source=asked[0])
    saved(t, (1100, 210), picture)
    t.note(
        "The stock **Generate Text** asks Show-o about a picture. The *w-clip-vit* files look at "
        "it through CLIP: connect **Load CLIP Vision** (clip-vit-large-patch14-336) to "
        "*clip_vision*.",
        (-20, 360),
        (320, 130),
    )
    return t


def dialogue() -> Template:
    t, model, tokenizer = show_o("show_o_dialogue")
    parts = {
        "model": model[0],
        "tokenizer": tokenizer[0],
        "steps": DEMO["steps"],
        "guidance": DEMO["guidance"],
        "top_k": DEMO["top_k"],
        "max_tokens": 60,
        "temperature": 0.0,
    }
    turns = (
        ("draw", "sunflower, noto style"),
        ("answer", "What is this?"),
        ("draw", "purple heart, noto style"),
        ("answer", "What do you see?"),
    )
    last: Node | None = None
    for i, (action, text) in enumerate(turns):
        given = {} if last is None else {"dialogue": last[0]}
        at = (360 + 360 * i, 0)
        title = f"Turn {i + 1}: {action}"
        last = t.add(
            "MMGenDialogueTurn",
            at,
            title,
            (330, 400),
            text=text,
            action=action,
            seed=i,
            **parts,
            **given,
        )
        if action == "draw":
            t.add(
                "SaveImage",
                (at[0], 460),
                size=(330, 360),
                images=last[3],
                filename_prefix=f"mmgen/{t.name}",
            )
    t.add("PreviewAny", (1800, 0), "The dialogue", (360, 300), source=last[2])
    t.note(
        "Each turn draws or answers; what was drawn last is what the next questions are about. "
        "Connect *image* of a turn to talk about your own picture.",
        (-20, 360),
        (320, 120),
    )
    return t


TEMPLATES = (text_to_image, inpaint, panorama, question, dialogue)
