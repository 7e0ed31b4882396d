"""What the templates of Chameleon, ANOLE and Lumina-mGPT hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_parts import Node, Template, decode, refine

LUMINA = "https://huggingface.co/Alpha-VLLM/Lumina-mGPT-7B-768"
ANOLE = "https://huggingface.co/GAIR/Anole-7b-v0.1"
CHAMELEON = "https://huggingface.co/facebook/chameleon-7b"
VQGAN = "https://huggingface.co/leloy/Anole-7b-v0.1-vqvae-hf"
PUBLIC_FILES = {
    "MMGenLoadNextTokenModel": [
        ("model.safetensors.index.json", LUMINA),
        ("models/7b/consolidated.pth", ANOLE),
        ("model.safetensors.index.json", CHAMELEON),
    ],
    "MMGenLoadImageTokenizer": [("model.safetensors", VQGAN)],
}
FILE = "mmgen_demo_chameleon.safetensors"  # model and image tokenizer in one
# What the demo model draws best with; those of the public models stand in the notes.
DEMO = {"guidance": 1.0, "image_guidance": 1.0, "temperature": 0.3, "top_k": 0, "top_p": 0.9}
MODELS_NOTE = f"""## Models

The demo model in this pack is a tiny Chameleon that draws emoji-like pictures of 64 x 64 pixels, \
so the workflow runs at once. It knows some 300 motifs in two styles, *noto style* and *fluent \
style*.

For real pictures put the whole folder of a model into `ComfyUI/models/mmgen` and choose its index \
(or `consolidated.pth`) in **Load Next-Token Model**:

- [Lumina-mGPT-7B-768]({LUMINA}) (14 GB, with `tokenizer.json`; copy that file into the folders of \
its variants): *size* to taste, *guidance* 4, *temperature* 1, *top_k* 2000, *top_p* 0
- [Anole-7b-v0.1]({ANOLE}) (14 GB): *guidance* 3, *temperature* 0.7, *top_p* 0.9
- [chameleon-7b]({CHAMELEON}) reads pictures and writes; what it draws is noise, for its image \
rows were taken out

and in **Load Image Tokenizer** the VQGAN that all of them share: \
[model.safetensors]({VQGAN}/resolve/main/model.safetensors) (0.3 GB) or `vqgan.ckpt` of ANOLE's \
folder `tokenizer`. Weights of this family are under the Chameleon Research License."""


def family(name: str) -> tuple[Template, Node, Node]:
    """A template with its note and loaders: model and image tokenizer."""
    t = Template(name)
    t.group("Models", [-20, -80, 320, 400])
    model = t.add("MMGenLoadNextTokenModel", (0, 0), model_name=FILE, dtype="auto")
    tokenizer = t.add("MMGenLoadImageTokenizer", (0, 150), tokenizer_name=FILE, dtype="auto")
    t.note(MODELS_NOTE, (-460, -40), (420, 600))
    return t, model, tokenizer


def asked(t: Template, position, text: str, title=None, *pictures: Node) -> Node:
    slots = {f"images.image{i}": picture[0] for i, picture in enumerate(pictures)}
    return t.add("MMGenMultimodalPrompt", position, title, (300, 200), text=text, **slots)


def drawn(t: Template, position, model: Node, tokenizer: Node, prompt: Node, title=None, **values):
    parts = {"model": model[0], "tokenizer": tokenizer[0], "prompt": prompt[0]}
    return t.add("MMGenTokenImageSampler", position, title, **parts, **(DEMO | values))


def save(t: Template, position, picture: Node, slot: int = 0) -> None:
    prefix = f"mmgen/{t.name}"
    t.add("SaveImage", position, size=(420, 460), images=picture[slot], filename_prefix=prefix)


def text_to_image() -> Template:
    t, model, tokenizer = family("lumina_text_to_image")
    prompt = asked(t, (400, 0), "a red heart in noto style")
    tokens = drawn(t, (400, 260), model, tokenizer, prompt, seed=1)
    save(t, (780, 120), decode(t, (780, 0), tokenizer, tokens))
    t.note(
        "The picture is painted row by row. Lumina-mGPT draws any size of the list, and others in "
        "multiples of 32; it is told the size in the prompt. *speculation* (advanced) draws "
        "several codes in one pass: 'same picture' gives exactly the same picture.",
        (780, 620),
        (420, 140),
    )
    return t


def image_to_image() -> Template:
    t, model, tokenizer = family("lumina_image_to_image")
    first = asked(t, (400, 0), "red apple, fluent style", "Source prompt")
    tokens = drawn(t, (400, 260), model, tokenizer, first, "Draw the source picture", seed=2)
    source = decode(t, (400, 740), tokenizer, tokens)
    t.group("Source picture", [380, -80, 340, 910], "#A88")
    t.note(
        "For **your own picture**, put **Load Image** in place of this group; it is scaled and "
        "cropped to the size that the model reads.",
        (380, 870),
        (340, 110),
    )
    text = "draw it in noto style <image>"
    prompt = asked(t, (760, 0), text, "What to do with it", source)
    changed = drawn(t, (760, 260), model, tokenizer, prompt, "Draw anew", seed=3)
    t.add("PreviewImage", (1120, 640), "Source picture", (260, 300), images=source[0])
    save(t, (1120, 120), decode(t, (1120, 0), tokenizer, changed))
    t.note(
        "Lumina-mGPT-7B-768-**Omni** knows instructions such as *Depth estimation. <image>*, "
        "*Surface normal estimation. <image>*, *Human pose estimation. <image>*, *Detect: dog "
        "<image>*, and editing in plain words, with *guidance* 1 and *top_k* 200; from a depth map "
        "it draws with *Generate an image according to the provided image, and according to the "
        "following caption:* and the caption.",
        (-460, 610),
        (420, 190),
    )
    return t


def story() -> Template:
    t, model, tokenizer = family("anole_story")
    prompt = asked(t, (400, 0), "a rocket meets a red heart.")
    told = t.add(
        "MMGenInterleavedSampler",
        (400, 260),
        model=model[0],
        tokenizer=tokenizer[0],
        prompt=prompt[0],
        seed=0,
        text_temperature=0.0,
        repetition_penalty=1.0,
        max_text_tokens=60,
        **DEMO,
    )
    t.add("PreviewAny", (780, 0), "The answer", (420, 160), source=told[0])
    save(t, (780, 220), told, 1)
    t.note(
        "The model decides by itself when to draw; other seeds give more or fewer pictures. ANOLE "
        "needs *text_temperature* 1, *repetition_penalty* 1.2 and more *max_text_tokens*. The "
        "texts between the pictures come as a list.",
        (780, 730),
        (420, 130),
    )
    return t


def question() -> Template:
    t, model, tokenizer = family("chameleon_question")
    prompt = asked(t, (400, 0), "pizza, noto style", "Picture to ask about")
    tokens = drawn(t, (400, 260), model, tokenizer, prompt, seed=4)
    picture = decode(t, (400, 740), tokenizer, tokens)
    t.group("Picture", [380, -80, 340, 910], "#A88")
    t.note(
        "For **your own picture**, put **Load Image** in place of this group.",
        (380, 870),
        (340, 80),
    )
    clip = t.add("MMGenNextTokenClip", (760, 0), model=model[0], tokenizer=tokenizer[0])
    answer = t.add(
        "TextGenerate",
        (760, 120),
        size=(320, 300),
        clip=clip[0],
        image=picture[0],
        prompt="what is this?",
        max_length=40,
        sampling_mode="off",
    )
    t.add("PreviewAny", (760, 480), "The answer", (320, 160), source=answer[0])
    save(t, (1120, 0), picture)
    t.note(
        "The same for captions: *Describe the image in detail.* The published settings of "
        "Chameleon are sampling on, *temperature* 0.7, *top_p* 0.9, *repetition_penalty* 1.2.",
        (1120, 520),
        (420, 110),
    )
    return t


def sd_refiner() -> Template:
    t, model, tokenizer = family("chameleon_sd_refiner")
    text = "snow capped mountain"
    prompt = asked(t, (400, 0), f"{text}, noto style")
    tokens = drawn(t, (400, 260), model, tokenizer, prompt, seed=5)
    picture = decode(t, (400, 740), tokenizer, tokens)
    t.group("The language model draws", [380, -80, 340, 910], "#A88")
    refine(t, picture, "What the language model drew", f"{text}, photograph")
    t.note(
        "A language model composes, any Stable Diffusion checkpoint refines (image to image): "
        "choose yours in **Load Checkpoint**. A lower *denoise* stays closer to the drawing.",
        (-460, 610),
        (420, 120),
    )
    return t


TEMPLATES = (text_to_image, image_to_image, story, question, sd_refiner)
