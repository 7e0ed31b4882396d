"""What the templates of Unified-IO 1 and 2 hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_graphs_llm import GLIGEN, GLIGEN_URL, SD, SD_URL
from template_parts import Node, Template, decode

HUB = "https://huggingface.co/allenai"
FILE, FOLDER = "pytorch_model.bin", "uio2-xl-bfloat16"
URL = f"{HUB}/{FOLDER}"
UIO1 = "https://ai2-prior-uio.s3.us-west-2.amazonaws.com/public/model-weights-bin"
ENTRY = (FILE, URL, f"mmgen/{FOLDER}")
PUBLIC_FILES = {
    "MMGenLoadNextTokenModel": [ENTRY],
    "MMGenLoadImageTokenizer": [ENTRY],
    "CheckpointLoaderSimple": [(SD, SD_URL, "checkpoints")],
    "GLIGENLoader": [(GLIGEN, GLIGEN_URL, "gligen")],
}

MODELS_NOTE = f"""## Models

There is no demo model of Unified-IO. Put the files of one repository into a folder of their own:

- `ComfyUI/models/mmgen/{FOLDER}`: `pytorch_model.bin` and `config.json` of [{FOLDER}]({URL}) (6.9 \
GB); also [uio2-large-bfloat16]({HUB}/uio2-large-bfloat16) (2.7 GB) and \
[uio2-xxl-bfloat16]({HUB}/uio2-xxl-bfloat16) (14.3 GB), and the same without *-bfloat16* in fp32
- beside them `tokenizer.model` of LLaMA 1 or 2, which is gated and comes from Meta

Unified-IO **1** works with the same nodes: \
[xl_1000k.bin]({UIO1}/xl_1000k.bin) (10.9 GB, or large, base, small) with `spiece.model` of \
[t5-base](https://huggingface.co/google-t5/t5-base) beside it. It takes no guidance: set it to 1.

Choose the same file in both loaders: it holds the model and its image tokenizer. The code is \
Apache-2.0, the weights name no licence. `python -m mmgen_core convert IN OUT` makes a safetensors \
file of it, once."""


def start(name: str, tokenizer: bool = True) -> tuple[Template, Node, Node | None]:
    t, name = Template(name), f"{FOLDER}/{FILE}"
    t.group("Models", [-20, -80, 320, 360])
    model = t.add("MMGenLoadNextTokenModel", (0, 0), model_name=name, dtype="auto")
    loader = None
    if tokenizer:
        loader = t.add("MMGenLoadImageTokenizer", (0, 150), tokenizer_name=name, dtype="auto")
    t.note(MODELS_NOTE, (-460, -40), (420, 560))
    return t, model, loader


def sampler(t: Template, position, model: Node, tokenizer: Node, prompt: Node, **values) -> Node:
    settings = {
        "size": "the model's own",
        "width": 512,
        "height": 512,
        "seed": 0,
        "guidance": 1.0,
        "image_guidance": 1.0,
        "temperature": 0.9,
        "top_k": 0,
        "top_p": 0.9,
        "batch_size": 1,
    }
    return t.add(
        "MMGenTokenImageSampler",
        position,
        model=model[0],
        tokenizer=tokenizer[0],
        prompt=prompt[0],
        **(settings | values),
    )


def text_to_image() -> Template:
    t, model, tokenizer = start("unified_io_text_to_image")
    prompt = t.add(
        "MMGenUnifiedIOTask",
        (360, 0),
        size=(300, 200),
        model=model[0],
        task="generate",
        words="a lighthouse on a rocky shore at sunset",
    )
    drawn = sampler(t, (360, 260), model, tokenizer, prompt, guidance=11.0, temperature=1.0)
    picture = decode(t, (720, 0), tokenizer, drawn)
    t.add("SaveImage", (720, 120), size=(420, 460), images=picture[0], filename_prefix="mmgen/uio")
    t.note(
        "Guidance 11 here is the published scale 10: this pack counts from 1, which is off. "
        "Captions were in lower case in training. 256 x 256 pixels, 1024 codes.",
        (720, 620),
        (420, 110),
    )
    return t


def picture_to_maps() -> Template:
    t, model, tokenizer = start("unified_io_depth_normals_segmentation")
    picture = t.add("LoadImage", (0, 330), image="example.png")
    box = t.add("PrimitiveBoundingBox", (0, 680), x=60, y=60, width=360, height=400)
    tasks = (
        ("depth", "", "Depth", {}),
        ("surface normals", "", "Normals", {}),
        ("segmentation", "girl", "Segmentation", {"box": box[0]}),
    )
    for row, (task, words, title, more) in enumerate(tasks):
        y = row * 620
        t.group(title, [340, y - 80, 1160, 590], "#8A8")
        prompt = t.add(
            "MMGenUnifiedIOTask",
            (360, y),
            size=(300, 200),
            model=model[0],
            task=task,
            words=words,
            image=picture[0],
            **more,
        )
        top_p = 0.95 if task == "segmentation" else 0.9
        drawn = sampler(t, (700, y), model, tokenizer, prompt, top_p=top_p)
        decoded = decode(t, (360, y + 260), tokenizer, drawn)
        fitted = t.add(
            "MMGenUnifiedIOFitMap",
            (360, y + 360),
            model=model[0],
            map=decoded[0],
            image=picture[0],
        )
        prefix = f"mmgen/uio_{title.lower()}"
        t.add("SaveImage", (1040, y), size=(420, 460), images=fitted[0], filename_prefix=prefix)
    t.note(
        "Published: temperature 0.9, top_p 0.9 (segmentation 0.95), no guidance. The second "
        "output of Fit Map to Picture is a mask. Depth: white is 0 m, black 10 m; "
        "the authors call the model under-trained on it.",
        (0, 880),
        (300, 160),
    )
    return t


def question() -> Template:
    t, model, _ = start("unified_io_picture_question", tokenizer=False)
    picture = t.add("LoadImage", (0, 200), image="example.png")
    clip = t.add("MMGenNextTokenClip", (360, 0), model=model[0])
    answer = t.add(
        "TextGenerate",
        (360, 120),
        size=(340, 300),
        clip=clip[0],
        prompt="What is in this picture?",
        image=picture[0],
        max_length=64,
        sampling_mode="off",
        thinking=False,
        use_default_template=True,
    )
    t.add("PreviewAny", (740, 0), "Answer", (340, 200), source=answer[0])
    task = t.add(
        "MMGenUnifiedIOTask",
        (360, 480),
        "Caption",
        (300, 200),
        model=model[0],
        task="caption",
        words="",
        image=picture[0],
    )
    caption = t.add(
        "TextGenerate",
        (700, 480),
        size=(340, 300),
        clip=clip[0],
        prompt=task[1],
        image=picture[0],
        max_length=64,
        sampling_mode="off",
        thinking=False,
        use_default_template=True,
    )
    t.add("PreviewAny", (1080, 480), "Caption", (340, 200), source=caption[0])
    t.note(
        "A bare question gets the wording of the training around it; a text that already has the "
        "wording of a task, as Unified-IO Task writes it, stays as it is.",
        (740, 240),
        (340, 120),
    )
    return t


def find_to_gligen() -> Template:
    """What is in one picture, drawn anew in the same places by Stable Diffusion with GLIGEN."""
    t, model, _ = start("unified_io_find_to_gligen", tokenizer=False)
    picture = t.add("LoadImage", (0, 200), image="example.png")
    square = t.add(
        "ImageScale",
        (0, 560),
        image=picture[0],
        upscale_method="lanczos",
        width=512,
        height=512,
        crop="center",
    )
    found = t.add(
        "MMGenUnifiedIOFind",
        (360, 0),
        model=model[0],
        image=square[0],
        task="detect everything",
        words="",
        threshold=0.5,
    )
    shown = t.add("DrawBBoxes", (360, 300), bboxes=found[0], image=square[0])
    t.add("PreviewImage", (360, 400), "What was found", (320, 360), images=shown[0])
    t.add("PreviewAny", (360, 800), "Labels and places", (320, 160), source=found[1])
    checkpoint = t.add("CheckpointLoaderSimple", (740, 0), ckpt_name=SD)
    gligen = t.add("GLIGENLoader", (740, 150), gligen_name=GLIGEN)
    positive, negative = (
        t.add("CLIPTextEncode", (740, y), title, (320, 120), text=text, clip=checkpoint[1])
        for y, title, text in (
            (260, "Positive prompt", "a watercolour painting, soft light"),
            (430, "Negative prompt", "blurry, text, watermark"),
        )
    )
    grounded = t.add(
        "MMGenLayoutToGligen",
        (1100, 0),
        conditioning=positive[0],
        clip=checkpoint[1],
        gligen_textbox_model=gligen[0],
        boxes=found[0],
        width=512,
        height=512,
    )
    latent = t.add("EmptyLatentImage", (1100, 200), width=512, height=512, batch_size=1)
    drawn = t.add(
        "KSampler",
        (1100, 350),
        model=checkpoint[0],
        seed=10,
        steps=20,
        cfg=7.0,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        positive=grounded[0],
        negative=negative[0],
        latent_image=latent[0],
        denoise=1.0,
    )
    result = t.add("VAEDecode", (1460, 0), samples=drawn[0], vae=checkpoint[2])
    t.add("SaveImage", (1460, 100), size=(420, 460), images=result[0], filename_prefix="mmgen/uio")
    t.note(
        "The boxes of Find Objects carry labels, so they go into every layout node: edit them on "
        "the stock canvas, turn them into masks or regional prompts. Needs Stable Diffusion 1.5 "
        f"and [GLIGEN's text-box model]({GLIGEN_URL}) in `ComfyUI/models/gligen`.",
        (740, 620),
        (340, 170),
    )
    return t


TEMPLATES = (text_to_image, picture_to_maps, question, find_to_gligen)
