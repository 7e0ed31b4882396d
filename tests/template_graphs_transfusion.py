"""What the template of Transfusion holds: nodes, positions, links, notes."""

from __future__ import annotations

from template_parts import Template

PUBLIC_FILES: dict[str, list] = {}  # the authors published none

TRANSFUSION_NOTE = """## Models

Transfusion is experimental here: its authors published neither weights nor code. This template \
needs a model of your own in `ComfyUI/models/mmgen`, in the layout of \
[lucidrains/transfusion-pytorch](https://github.com/lucidrains/transfusion-pytorch) 0.19, or \
trained with this pack's objective (`mmgen_core/training/paper_transfusion.py`), its text \
tokenizer beside it as `<name>.tokenizer.json` (models of 256 text ids read bytes), and the VAE \
that its latents belong to in `ComfyUI/models/vae`."""


def transfusion() -> Template:
    t = Template("transfusion_stream")
    t.group("Models", [-20, -80, 320, 400])
    model = t.add(
        "MMGenLoadMaskedModel", (0, 0), model_name="transfusion.safetensors", dtype="auto"
    )
    vae = t.add("VAELoader", (0, 150), vae_name="transfusion_vae.safetensors")
    text = "a red heart"
    common = {"steps": 16, "guidance": 3.0}
    drawn = t.add(
        "MMGenFlowSampler", (360, 0), None, (320, 300), model=model[0], text=text, seed=1, **common
    )
    picture = t.add("VAEDecode", (720, 0), samples=drawn[0], vae=vae[0])
    t.add(
        "SaveImage",
        (720, 100),
        size=(320, 340),
        images=picture[0],
        filename_prefix=f"mmgen/{t.name}",
    )
    story = t.add(
        "MMGenFlowStory",
        (360, 400),
        None,
        (320, 400),
        model=model[0],
        text=text,
        seed=2,
        temperature=0.0,
        max_tokens=512,
        **common,
    )
    t.add("PreviewAny", (720, 500), "The stream's text", (320, 160), source=story[0])
    pictures = t.add("VAEDecode", (1080, 400), samples=story[1], vae=vae[0])
    t.add("PreviewImage", (1080, 500), "The stream's pictures", (320, 340), images=pictures[0])
    t.note(TRANSFUSION_NOTE, (-460, -40), (420, 400))
    t.note(
        "Above, a picture of a text; below, one stream of text and pictures in which the model "
        "itself begins pictures.",
        (-20, 360),
        (320, 110),
    )
    return t


TEMPLATES = (transfusion,)
