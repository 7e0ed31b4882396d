"""What templates are made of: nodes, links, and the groups of nodes that several share."""

from __future__ import annotations

from dataclasses import dataclass, field


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


def loaders(t: Template, model: str, tokenizer: str, height: int = 400) -> tuple[Node, Node]:
    t.group("Models", [-20, -80, 320, height])
    return (
        t.add("MMGenLoadScaleModel", (0, 0), model_name=model, dtype="auto"),
        t.add("MMGenLoadImageTokenizer", (0, 150), tokenizer_name=tokenizer, dtype="auto"),
    )


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
    t: Template,
    model: Node,
    tokenizer: Node,
    picture: Node,
    mask: tuple[Node, int],
    class_id: int | tuple[Node, int],
    **values,
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
        **({"guidance": 3.0, "smooth": True} | values),
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


def refine(t: Template, picture: Node, drawn: str, text: str) -> None:
    """A stock Stable Diffusion image-to-image pass over a picture, titled ``drawn``."""
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
        text=f"{text}, soft light, detailed",
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
    t.add("PreviewImage", (1460, 120), drawn, (260, 300), images=picture[0])
    t.add(
        "SaveImage", (1760, 0), size=(420, 480), images=result[0], filename_prefix=f"mmgen/{t.name}"
    )
    t.group("Stable Diffusion refines", [720, -80, 720, 720], "#88A")
