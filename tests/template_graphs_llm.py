"""What the templates with a language model in front hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_graphs_star import PUBLIC_FILES as STAR_FILES
from template_graphs_star import drawn, encoded, star
from template_parts import Node, Template, decode

LLM_URL = "https://huggingface.co/Qwen/Qwen2.5-1.5B-Instruct"
SD_URL = "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive"
SDXL_URL = "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0"
GLIGEN_URL = "https://huggingface.co/comfyanonymous/GLIGEN_pruned_safetensors"
SD, SDXL = "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors"
GLIGEN = "gligen_sd14_textbox_pruned.safetensors"
PUBLIC_FILES = {
    **STAR_FILES,
    "MMGenLoadLLM": [("model.safetensors", LLM_URL, "LLM/Qwen2.5-1.5B-Instruct")],
    "CheckpointLoaderSimple": [(SD, SD_URL, "checkpoints"), (SDXL, SDXL_URL, "checkpoints")],
    "GLIGENLoader": [(GLIGEN, GLIGEN_URL, "gligen")],
}
LLM = "mmgen_demo_llm"
LLM_NOTE = f"""## The language model

The demo model in this pack (2 MB) knows counts, colours, sizes, places and simple relations of \
about 130 things; it shows how the nodes work. For anything else choose another in **Load LLM**: \
any causal language model as a folder from Hugging Face in `ComfyUI/models/LLM`, for example all \
files of [Qwen2.5-1.5B-Instruct]({LLM_URL}). Or put **Connect LLM Endpoint** (Ollama, llama.cpp, \
vLLM, SGLang, hosted) or one of ComfyUI's own text models (Load CLIP with a Gemma or Qwen) in its \
place."""
DEMO_WRITING = {"max_length": 300, "temperature": 0.5, "top_p": 0.9}
SIDE = 512


def load_llm(t: Template, position=(0, 0)) -> Node:
    t.note(LLM_NOTE, (position[0] - 460, position[1] - 40), (420, 270))
    return t.add("MMGenLoadLLM", position, llm_name=LLM, dtype="auto")


def rewrite(t: Template, position, llm: Node, text: str, preset: str, **values) -> Node:
    return t.add(
        "MMGenRewritePrompt",
        position,
        None,
        (340, 520),
        clip=llm[0],
        text=text,
        preset=preset,
        **(DEMO_WRITING | values),
    )


def plan(t: Template, position, llm: Node, prompt: str, side: int = SIDE, **values) -> Node:
    return t.add(
        "MMGenPlanLayout",
        position,
        None,
        (340, 460),
        clip=llm[0],
        prompt=prompt,
        width=side,
        height=side,
        **(DEMO_WRITING | {"max_length": 600, "retries": 2} | values),
    )


def render(t: Template, position, checkpoint: Node, positive, negative, side: int) -> Node:
    """A stock sampler, decoded and saved."""
    x, y = position
    latent = t.add("EmptyLatentImage", (x, y), width=side, height=side, batch_size=1)
    sampled = t.add(
        "KSampler",
        (x, y + 160),
        model=checkpoint[0],
        seed=7,
        steps=25,
        cfg=7.0,
        sampler_name="dpmpp_2m",
        scheduler="karras",
        positive=positive,
        negative=negative,
        latent_image=latent[0],
        denoise=1.0,
    )
    result = t.add("VAEDecode", (x + 340, y), samples=sampled[0], vae=checkpoint[2])
    prefix = f"mmgen/{t.name}"
    size = (420, 480)
    return t.add(
        "SaveImage", (x + 340, y + 90), None, size, images=result[0], filename_prefix=prefix
    )


def encode(t: Template, position, checkpoint: Node, text, title: str) -> Node:
    return t.add("CLIPTextEncode", position, title, (320, 120), text=text, clip=checkpoint[1])


def rewrite_sd() -> Template:
    t = Template("llm_rewrite_sd")
    llm = load_llm(t)
    wish = rewrite(t, (400, 0), llm, "a red fox in the snow", "SD tags", seed=1)
    checkpoint = t.add("CheckpointLoaderSimple", (0, 300), ckpt_name=SD)
    positive = encode(t, (800, 0), checkpoint, wish[0], "Positive prompt")
    negative = encode(t, (800, 170), checkpoint, wish[1], "Negative prompt")
    render(t, (1160, 0), checkpoint, positive[0], negative[0], SIDE)
    t.note(
        "The prompt is shown on **Rewrite Prompt**. To change it, copy it into *edited* and change "
        "it there: then the language model is not asked (nor loaded) at all.",
        (400, 580),
        (340, 130),
    )
    t.group("The language model writes the prompt", [380, -80, 380, 820], "#8A8")
    return t


def rewrite_star() -> Template:
    t, model, tokenizer, clip = star("llm_rewrite_star")
    llm = load_llm(t, (0, 620))
    wish = rewrite(t, (400, 620), llm, "a red heart", "STAR", seed=4, variants=4)
    prompt = encoded(t, (400, 0), clip, wish[0])
    sampled = drawn(t, (760, 0), model, tokenizer, prompt, seed=1)
    picture = decode(t, (760, 400), tokenizer, sampled)
    t.add(
        "SaveImage",
        (1120, 0),
        size=(420, 480),
        images=picture[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    t.note(
        "Four *variants* of one wish, written by the language model and drawn one after the other: "
        "variant *i* is what seed + *i* gives alone.",
        (760, 620),
        (340, 110),
    )
    return t


def layout_gligen() -> Template:
    t = Template("llm_layout_gligen")
    llm = load_llm(t)
    planned = plan(t, (400, 0), llm, "a cat to the left of a big dog in a park", seed=3)
    canvas = t.add(
        "CreateBoundingBoxes",
        (800, 0),
        "Edit the plan here",
        (420, 460),
        bboxes=planned[0],
        width=SIDE,
        height=SIDE,
        editor_state=[],
        last_incoming=[],
    )
    t.add("PreviewImage", (800, 520), "The plan", (260, 260), images=canvas[0])
    checkpoint = t.add("CheckpointLoaderSimple", (0, 300), ckpt_name=SD)
    gligen = t.add("GLIGENLoader", (0, 450), gligen_name=GLIGEN)
    whole = encode(t, (1260, 0), checkpoint, planned[1], "The whole picture")
    negative = encode(t, (1260, 170), checkpoint, "blurry, text, watermark", "Negative prompt")
    grounded = t.add(
        "MMGenLayoutToGligen",
        (1260, 340),
        conditioning=whole[0],
        clip=checkpoint[1],
        gligen_textbox_model=gligen[0],
        boxes=canvas[2],
        width=SIDE,
        height=SIDE,
    )
    render(t, (1620, 0), checkpoint, grounded[0], negative[0], SIDE)
    t.note(
        f"GLIGEN grounds Stable Diffusion 1.x: [{GLIGEN}]({GLIGEN_URL}) in "
        "`ComfyUI/models/gligen`. Move, resize, rename or add boxes on the canvas and run again: "
        "your edit holds until the plan changes. The *elements* output carries descriptions, "
        "*bboxes* does not.",
        (800, 820),
        (420, 150),
    )
    return t


def layout_regional() -> Template:
    t = Template("llm_layout_regional_sdxl")
    side = 1024
    llm = load_llm(t)
    wish = "two red balloons above a small dog on a beach"
    planned = plan(t, (400, 0), llm, wish, side, seed=5)
    checked = t.add(
        "MMGenCheckLayout",
        (800, 0),
        None,
        (340, 300),
        boxes=planned[0],
        prompt=wish,
        width=side,
        height=side,
        clip=llm[0],
    )
    picture = t.add("MMGenDrawLayout", (800, 360), boxes=checked[0], width=side, height=side)
    t.add("PreviewImage", (800, 520), "The plan", (300, 320), images=picture[0])
    listed = t.add("MMGenLayoutToElements", (800, 880), boxes=checked[0], width=side, height=side)
    t.add("PreviewAny", (1180, 760), "For a JSON prompt", (340, 200), source=listed[0])
    checkpoint = t.add("CheckpointLoaderSimple", (0, 300), ckpt_name=SDXL)
    regions = t.add(
        "MMGenLayoutToRegions",
        (1180, 0),
        None,
        (340, 340),
        clip=checkpoint[1],
        boxes=checked[0],
        background=planned[1],
        style="photograph, soft light",
        width=side,
        height=side,
        mode="area",
    )
    negative = encode(t, (1180, 400), checkpoint, "blurry, text, watermark", "Negative prompt")
    render(t, (1560, 0), checkpoint, regions[0], negative[0], side)
    t.note(
        "Any SD or SDXL checkpoint. Each box has its own prompt, the whole picture another. "
        "*area* draws each box alone and mixes it in, *mask* draws the whole picture for each "
        f"prompt. Opens on [{SDXL}]({SDXL_URL}).",
        (1180, 570),
        (340, 170),
    )
    return t


def layout_compose() -> Template:
    t, model, tokenizer, clip = star("llm_layout_compose")
    llm = load_llm(t, (0, 620))
    planned = plan(t, (400, 620), llm, "a sun above two red apples", seed=2)
    picture = t.add("MMGenDrawLayout", (800, 620), boxes=planned[0], width=SIDE, height=SIDE)
    t.add("PreviewImage", (800, 760), "The plan", (300, 320), images=picture[0])
    masks = t.add(
        "MMGenLayoutToMasks",
        (400, 350),
        boxes=planned[0],
        width=SIDE,
        height=SIDE,
        style="noto style",
    )
    prompt = encoded(t, (400, 0), clip, masks[2])
    sampled = drawn(t, (760, 0), model, tokenizer, prompt, seed=1)
    pictures = decode(t, (760, 400), tokenizer, sampled)
    composed = t.add(
        "MMGenComposeLayout",
        (1120, 0),
        images=pictures[0],
        boxes=planned[0],
        width=SIDE,
        height=SIDE,
        clear_white=0.12,
    )
    t.add(
        "SaveImage",
        (1120, 230),
        size=(420, 480),
        images=composed[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    t.note(
        "The language model plans, STAR draws one thing for each box, **Compose Layout** puts "
        "them in their places. Runs at once on the demo models.",
        (1120, 760),
        (420, 110),
    )
    return t


def endpoint() -> Template:
    t = Template("llm_endpoint_layout")
    side = 1024
    served = t.add(
        "MMGenConnectLLMEndpoint",
        (0, 0),
        None,
        (340, 200),
        url="http://127.0.0.1:11434/v1",
        model="qwen2.5:7b",
        key_variable="",
        timeout=120.0,
    )
    t.note(
        "## A served language model\n\nThis opens on [Ollama](https://ollama.com) on this machine "
        "(`ollama run qwen2.5:7b`). vLLM: `http://host:8000/v1`, SGLang: `:30000/v1`, llama.cpp: "
        "`:8080/v1`. For a hosted service write the *name* of the environment variable that holds "
        "your key, such as `OPENAI_API_KEY`, into *key_variable*. The address gets your prompts "
        "and that key: look at it before you run somebody else's workflow.\n\n"
        f"The checkpoint is [{SDXL}]({SDXL_URL}).",
        (-460, -40),
        (420, 330),
    )
    wish = "three paper lanterns above a sleeping cat on a wooden porch"
    values = {"temperature": 0.7, "top_p": 0.95, "max_length": 1200}
    planned = plan(t, (400, 0), served, wish, side, **values)
    rewritten = rewrite(t, (400, 520), served, wish, "SDXL prose", **(values | {"max_length": 400}))
    reread = t.add(
        "MMGenReadLayout", (800, 0), None, (340, 240), text=planned[3], width=side, height=side
    )
    checkpoint = t.add("CheckpointLoaderSimple", (0, 300), ckpt_name=SDXL)
    regions = t.add(
        "MMGenLayoutToRegions",
        (1180, 0),
        None,
        (340, 340),
        clip=checkpoint[1],
        boxes=reread[0],
        background=rewritten[0],
        style="",
        width=side,
        height=side,
        mode="mask",
    )
    negative = encode(t, (1180, 400), checkpoint, rewritten[1], "Negative prompt")
    render(t, (1560, 0), checkpoint, regions[0], negative[0], side)
    return t


TEMPLATES = (rewrite_sd, rewrite_star, layout_gligen, layout_regional, layout_compose, endpoint)
