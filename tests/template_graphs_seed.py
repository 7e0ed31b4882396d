"""What the templates of SEED hold: nodes, positions, links, notes."""

from __future__ import annotations

from template_graphs_var import URL as VAR_URL
from template_parts import Node, Template, decode, loaders, sampler

URL = "https://huggingface.co/AILab-CVC/seed-tokenizer-2"
LLAMA_URL = "https://huggingface.co/AILab-CVC/seed-llama-8b-sft"
VISION_URL = (
    "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"
)
UNCLIP_URL = "https://huggingface.co/stabilityai/stable-diffusion-2-1-unclip"
SD15_URL = "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive"
SD15 = "v1-5-pruned-emaonly-fp16.safetensors"
UNCLIP = "sd21-unclip-h.ckpt"

PUBLIC_FILES = {
    "MMGenLoadSeedTokenizer": [("seed_quantizer.pt", URL)],
    "MMGenLoadNextTokenModel": [("pytorch_model.bin.index.json", LLAMA_URL)],
    "MMGenLoadSmallDiffusion": [(SD15, SD15_URL, "checkpoints")],
    "MMGenLoadScaleModel": [("var_d16.pth", VAR_URL)],
    "MMGenLoadImageTokenizer": [("vae_ch160v4096z32.pth", VAR_URL)],
    "CheckpointLoaderSimple": [(SD15, SD15_URL, "checkpoints")],
    "unCLIPCheckpointLoader": [(UNCLIP, UNCLIP_URL, "checkpoints")],
}
DEMO = {
    "model": "mmgen_demo_var.safetensors",
    "vae": "mmgen_demo_vae.safetensors",
    "seed": "mmgen_demo_seed.safetensors",
    "unet": "mmgen_demo_seed_unet.safetensors",
}
SAME_FILE, NO_FILE = "in the tokenizer's file", "none"
LLAMA_FILE = "seed-llama-8b-sft/pytorch_model.bin.index.json"
PUBLISHED = {"temperature": 1.0, "top_k": 50, "top_p": 0.5}  # of SEED-LLaMA's scripts

DEMO_NOTE = f"""## Models

Everything here is a small demo model of this pack, trained on emoji drawings: the SEED tokenizer \
and the diffusion model that draws what its tokens mean. For pictures of the real world:

- SEED-2: [seed_quantizer.pt]({URL}) and [eva_vit_g.pth]({VISION_URL}) in `ComfyUI/models/mmgen`, \
with Stable Diffusion 2.1 unCLIP; see the template **seed2_picture_to_picture**
- SEED-1: `seed_tokenizer.pth` and `causal_qformer.pth` (a folder linked from \
[SEED-1.md](https://github.com/AILab-CVC/SEED/blob/main/SEED-1.md)) and the same eva_vit_g.pth, \
with Stable Diffusion 1.5 ({SD15_URL}); see **seed1_picture_to_picture**

A picture's 32 tokens hold what it shows, not its pixels: the drawing comes back as another one \
of the same thing. This small demo was trained for half an hour on hearts and shapes: it keeps \
the colour and a rough outline, no more. Another seed of the KSampler draws it anew."""


def seed_loader(t: Template, position, name: str, vision: str = SAME_FILE, second: str = NO_FILE):
    return t.add(
        "MMGenLoadSeedTokenizer",
        position,
        tokenizer_name=name,
        vision_name=vision,
        qformer_name=second,
        dtype="auto",
        codes_dtype="fp32",
    )


def encode(t: Template, position, tokenizer: Node, picture: tuple[Node, int]) -> Node:
    return t.add(
        "MMGenEncodeSeed", position, tokenizer=tokenizer[0], image=picture, resize="bilinear"
    )


def ksampler(
    t: Template, position, model, positive, negative, latent, title=None, **values
) -> Node:
    settings = {
        "seed": 1,
        "steps": 20,
        "cfg": 4.0,
        "sampler_name": "dpmpp_2m",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    return t.add(
        "KSampler",
        position,
        model=model[0],
        positive=positive[0],
        negative=negative[0],
        latent_image=latent[0],
        **(settings | values),
    )


# The demo


def demo_loaders(t: Template) -> tuple[Node, Node, Node, Node]:
    """VAR and its tokenizer, which draw a picture to start from; SEED and its diffusion model."""
    var, vae = loaders(t, DEMO["model"], DEMO["vae"], 660)
    seed = seed_loader(t, (0, 290), DEMO["seed"])
    unet = t.add("MMGenLoadSmallDiffusion", (0, 490), model_name=DEMO["unet"], dtype="auto")
    t.note(DEMO_NOTE, (-460, -40), (420, 620))
    return var, vae, seed, unet


def demo_picture(t: Template, at: int, models, name: str, seed: int, title: str) -> Node:
    """A drawing of a class by VAR; ``at`` is its height on the canvas."""
    var, vae = models
    chosen = t.add("MMGenClassByName", (340, at), model=var[0], name=name)
    settings = {"seed": seed, "guidance": 4.0, "smooth": True}
    tokens = sampler(t, (340, at + 110), var, vae, chosen[0], **settings)
    picture = decode(t, (680, at), vae, tokens)
    t.add("PreviewImage", (680, at + 110), title, (260, 280), images=picture[0])
    return picture


def redraw(t: Template, position, unet, seed, vae, tokens, title: str, batch: int = 1, **values):
    """Tokens to pictures by the small diffusion model, in a column of the canvas."""
    x, y = position
    condition = t.add("MMGenSeedCondition", (x, y), tokenizer=seed[0], tokens=tokens, model=unet[0])
    nothing = t.add("ConditioningZeroOut", (x, y + 120), conditioning=condition[0])
    latent = t.add("EmptyLatentImage", (x, y + 200), width=64, height=64, batch_size=batch)
    drawn = ksampler(t, (x, y + 360), unet, condition, nothing, latent, **values)
    picture = t.add("VAEDecode", (x + 320, y), samples=drawn[0], vae=vae[1])
    t.add(
        "SaveImage",
        (x + 320, y + 110),
        title,
        (300, 320),
        images=picture[0],
        filename_prefix=f"mmgen/{t.name}",
    )


def drawing_to_drawing() -> Template:
    t = Template("seed_drawing_to_drawing")
    var, vae, seed, unet = demo_loaders(t)
    picture = demo_picture(t, 0, (var, vae), "heart", 3, "A drawing by the demo VAR")
    tokens = encode(t, (1000, 0), seed, picture[0])
    shown = t.add(
        "MMGenEditSeedTokens",
        (1000, 160),
        "The 32 tokens, to look at or to change",
        tokenizer=seed[0],
        tokens=tokens[0],
        places="0",
        codes="",
    )
    redraw(t, (1340, 0), unet, seed, vae, shown[0], "Four drawings of the same meaning", 4)
    t.group("Drawing, tokens, drawing", [320, -80, 1680, 760], "#88A")
    return t


def mix_tokens() -> Template:
    t = Template("seed_mix_tokens")
    var, vae, seed, unet = demo_loaders(t)
    pair = [
        demo_picture(t, 0, (var, vae), "heart", 3, "First drawing"),
        demo_picture(t, 500, (var, vae), "coloured circle", 1, "Second drawing"),
    ]
    first, second = (encode(t, (1000, 500 * i), seed, picture[0]) for i, picture in enumerate(pair))
    mixes = (("Half of both", 0.5, "all"), ("The second's places 16-31", 1.0, "16-31"))
    for i, (title, share, places) in enumerate(mixes):
        mixed = t.add(
            "MMGenMixSeedTokens",
            (1000, 160 + 500 * i),
            title,
            tokenizer=seed[0],
            tokens=first[0],
            other_tokens=second[0],
            share=share,
            places=places,
        )
        redraw(t, (1340, 720 * i), unet, seed, vae, mixed[0], title)
    t.note(
        "## Tokens can be mixed\n\n**Mix SEED Tokens** takes over places of another picture "
        "(share 1) or blends code vectors (in between). Stable Diffusion draws blends; a language "
        "model reads whole codes only. The first places say what the picture shows, the later "
        "ones add to it.",
        (-460, 620),
        (420, 220),
    )
    return t


# Public models


def seed1_picture() -> Template:
    t = Template("seed1_picture_to_picture")
    seed = seed_loader(t, (0, 0), "seed_tokenizer.pth", "eva_vit_g.pth", "causal_qformer.pth")
    checkpoint = t.add("CheckpointLoaderSimple", (0, 200), ckpt_name=SD15)
    picture = t.add("LoadImage", (340, 0), "The picture", image="example.png")
    tokens = encode(t, (680, 0), seed, picture[0])
    condition = t.add(
        "MMGenSeedCondition",
        (680, 140),
        tokenizer=seed[0],
        tokens=tokens[0],
        model=checkpoint[0],
    )
    negative = t.add(
        "CLIPTextEncode", (680, 280), "No words", (280, 100), text="", clip=checkpoint[1]
    )
    latent = t.add("EmptyLatentImage", (680, 430), width=512, height=512, batch_size=1)
    drawn = ksampler(
        t, (1000, 0), checkpoint, condition, negative, latent, steps=50, cfg=7.5, seed=42
    )
    result = t.add("VAEDecode", (1000, 320), samples=drawn[0], vae=checkpoint[2])
    t.add(
        "SaveImage",
        (1320, 0),
        "The same meaning",
        (420, 480),
        images=result[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    t.note(
        f"""## Models

- in `ComfyUI/models/mmgen`: `seed_tokenizer.pth` and `causal_qformer.pth`, both in the folder \
linked from [SEED-1.md](https://github.com/AILab-CVC/SEED/blob/main/SEED-1.md); \
[eva_vit_g.pth]({VISION_URL}) (2 GB)
- in `ComfyUI/models/checkpoints`: Stable Diffusion 1.4 or 1.5, such as \
[{SD15}]({SD15_URL}/resolve/main/{SD15})
- the newer tokenizer [seed_quantizer.pt]({URL}) is for Stable Diffusion 2.1 unCLIP

The 77 features that the Reverse Q-Former writes stand in place of an encoded prompt, so LoRA, \
ControlNet and every sampler work as usual. Published: 50 steps of PLMS, which ComfyUI does not \
have, guidance 7.5, seed 42. The language model of SEED-1 was never published.""",
        (-460, -40),
        (420, 480),
    )
    return t


def unclip_parts(t: Template, x: int, seed: Node, tokens: tuple[Node, int], title: str) -> None:
    """SEED-2 tokens to a picture: embedding, unCLIP, KSampler."""
    checkpoint = t.add("unCLIPCheckpointLoader", (x, 0), ckpt_name=UNCLIP)
    embedding = t.add(
        "MMGenSeedEmbedding",
        (x, 160),
        tokenizer=seed[0],
        tokens=tokens,
        model=checkpoint[0],
    )
    words = t.add("CLIPTextEncode", (x, 290), "No words", (280, 100), text="", clip=checkpoint[1])
    positive = t.add(
        "unCLIPConditioning",
        (x, 440),
        conditioning=words[0],
        clip_vision_output=embedding[0],
        strength=1.0,
        noise_augmentation=0.0,
    )
    latent = t.add("EmptyLatentImage", (x, 590), width=768, height=768, batch_size=1)
    drawn = ksampler(t, (x + 320, 0), checkpoint, positive, words, latent, cfg=10.0)
    result = t.add("VAEDecode", (x + 320, 320), samples=drawn[0], vae=checkpoint[2])
    t.add(
        "SaveImage",
        (x + 640, 0),
        title,
        (420, 480),
        images=result[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    t.group("Stable Diffusion 2.1 unCLIP", [x - 20, -80, 640, 820], "#88A")


UNCLIP_NOTE = f"""- in `ComfyUI/models/checkpoints`: \
[{UNCLIP}]({UNCLIP_URL}/resolve/main/{UNCLIP})
- in `ComfyUI/models/mmgen`: [seed_quantizer.pt]({URL}/resolve/main/seed_quantizer.pt) (SEED-2)"""


def seed2_picture() -> Template:
    t = Template("seed2_picture_to_picture")
    seed = seed_loader(t, (0, 0), "seed_quantizer.pt", "eva_vit_g.pth")
    picture = t.add("LoadImage", (0, 200), "The picture", image="example.png")
    tokens = encode(t, (340, 0), seed, picture[0])
    unclip_parts(t, 680, seed, tokens[0], "The same meaning")
    t.note(
        f"""## Models

{UNCLIP_NOTE} and [eva_vit_g.pth]({VISION_URL}) (2 GB)

The 32 tokens become the image embedding that unCLIP was trained to draw. Published: guidance 10, \
20 steps, 768 x 768, no noise augmentation. The negative has no embedding, as in the reference.""",
        (-460, -40),
        (420, 340),
    )
    return t


LLAMA_NOTE = f"""## Models

- in `ComfyUI/models/mmgen/seed-llama-8b-sft`: all files of [seed-llama-8b-sft]({LLAMA_URL}) \
(13 GB in fp16), and `tokenizer.model` and `added_tokens.json` of [seed-tokenizer-2]({URL}); \
[14B](https://huggingface.co/AILab-CVC/seed-llama-14b-sft) works alike
{UNCLIP_NOTE}"""


def llama_loaders(t: Template, vision: str) -> tuple[Node, Node]:
    t.group("Models", [-20, -80, 320, 400])
    return (
        t.add("MMGenLoadNextTokenModel", (0, 0), model_name=LLAMA_FILE, dtype="auto"),
        seed_loader(t, (0, 130), "seed_quantizer.pt", vision),
    )


def text_to_image() -> Template:
    t = Template("seed_llama_text_to_image")
    model, seed = llama_loaders(t, NO_FILE)
    prompt = t.add(
        "MMGenMultimodalPrompt",
        (340, 0),
        None,
        (300, 160),
        text="Please show me a cozy cabin in a snowy forest at dusk.",
        system_prompt="",
    )
    tokens = t.add(
        "MMGenTokenImageSampler",
        (340, 220),
        model=model[0],
        tokenizer=seed[0],
        prompt=prompt[0],
        seed=1,
        guidance=1.0,
        image_guidance=1.0,
        batch_size=1,
        **PUBLISHED,
    )
    unclip_parts(t, 700, seed, tokens[0], "Drawn")
    t.note(
        f"""{LLAMA_NOTE}

The sampler puts the begin mark of a picture behind the prompt and draws 32 codes ("force image" \
of the published demo); guidance has no effect, SEED-LLaMA has none. Reading no pictures, the \
tokenizer needs no vision transformer here. A batch of tokens is drawn picture by picture.""",
        (-460, -40),
        (420, 420),
    )
    return t


def two_pictures() -> Template:
    """Two pictures and an instruction, answered in text and pictures."""
    t = Template("seed_llama_two_pictures")
    model, seed = llama_loaders(t, "eva_vit_g.pth")
    pictures = [
        t.add("LoadImage", (340, 340 * i), title, image="example.png")
        for i, title in enumerate(("First picture", "Second picture"))
    ]
    prompt = t.add(
        "MMGenMultimodalPrompt",
        (680, 0),
        None,
        (300, 220),
        text="<image> This is the first picture. <image> This is the second. Please put the first "
        "into the surroundings of the second.",
        system_prompt="",
        **{f"images.image{i}": picture[0] for i, picture in enumerate(pictures)},
    )
    told = t.add(
        "MMGenInterleavedSampler",
        (680, 280),
        model=model[0],
        tokenizer=seed[0],
        prompt=prompt[0],
        seed=1,
        guidance=1.0,
        image_guidance=1.0,
        text_temperature=1.0,
        text_top_k=50,
        text_top_p=0.5,
        repetition_penalty=1.0,
        max_text_tokens=512,
        **PUBLISHED,
    )
    t.add("PreviewAny", (1020, 820), "The answer", (420, 160), source=told[0])
    unclip_parts(t, 1020, seed, told[3], "The pictures of the answer")
    t.note(
        f"""{LLAMA_NOTE} and [eva_vit_g.pth]({VISION_URL}) (2 GB)

The model answers with a sentence and a picture, or with several; it decides itself. For **several \
turns** write them into the prompt, each at the beginning of a line: *USER: <image> Make it \
winter.*, *ASSISTANT: Here it is. <image>*, *USER: Now at night.* An answer without a picture \
leaves the nodes behind it out.""",
        (-460, -40),
        (420, 460),
    )
    return t


def caption() -> Template:
    t = Template("seed_llama_caption")
    model, seed = llama_loaders(t, "eva_vit_g.pth")
    picture = t.add("LoadImage", (340, 0), "The picture", image="example.png")
    clip = t.add("MMGenNextTokenClip", (680, 0), model=model[0], tokenizer=seed[0])
    answer = t.add(
        "TextGenerate",
        (680, 120),
        size=(320, 300),
        clip=clip[0],
        image=picture[0],
        prompt="Please provide an accurate and concise description of the given image.",
        max_length=256,
        sampling_mode="off",
    )
    t.add("PreviewAny", (1040, 0), "The caption", (420, 200), source=answer[0])
    t.note(
        f"""{LLAMA_NOTE} and [eva_vit_g.pth]({VISION_URL}) (2 GB); Stable Diffusion is not \
needed here.

The stock **Generate Text** asks SEED-LLaMA about a picture, which it reads as 32 tokens. \
Published: sampling on, *temperature* 1, *top_k* 50, *top_p* 0.5.""",
        (-460, -40),
        (420, 420),
    )
    return t


TEMPLATES = (
    drawing_to_drawing,
    mix_tokens,
    seed1_picture,
    seed2_picture,
    text_to_image,
    two_pictures,
    caption,
)
