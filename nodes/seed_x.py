"""SEED-X: picture features from texts and pictures, and conditions for its own SDXL."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mmgen_core.checkpoints.architecture import require_finite
from ..mmgen_core.conditioners import pictures, seed_x
from ..mmgen_core.conditioners.seed_x import ImageFeatures as Features
from ..mmgen_core.conditioners.story import check_room
from ..mmgen_core.decoding.next_token import TokenSampling
from ..mmgen_core.decoding.query_spans import memory_required
from . import host
from .api import Detokenizer, ImageFeatures, Prompt, QueryModel, io
from .inputs import dtype_input, sampling_inputs, seed_input
from .query_models import ALIASES, need

TASKS = [name for name in seed_x.TEMPLATES if not name.startswith(("ask", "find"))]


class SeedXFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenSeedXFeatures",
            display_name="Imagine Picture (SEED-X)",
            category="mmgen/conditioning",
            description="Lets SEED-X read a text, with pictures if you like, and imagine a picture "
            "as 64 image features, for SEED-X Conditioning.",
            search_aliases=[*ALIASES, "text to image", "image edit", "instruction"],
            inputs=[
                QueryModel.Input("model", tooltip="SEED-X, from Load Query Model."),
                io.Combo.Input(
                    "task",
                    options=TASKS,
                    default=TASKS[0],
                    tooltip="The prompt that the chosen weights were trained on: SEED-X draws "
                    "captions, SEED-X-I answers requests, SEED-X-Edit edits one picture. plain "
                    "takes the text as it is.",
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="A caption, a request, or an instruction how to edit.",
                ),
                io.Boolean.Input(
                    "force_picture",
                    default=True,
                    tooltip="Open a picture right behind the prompt: one pass, and always a "
                    "picture. Off: the model writes its answer and opens pictures by itself, as "
                    "in the published scripts of SEED-X-I and SEED-X-Edit.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Pictures of the prompt; <image> in the text says where each stands.",
                ),
                Prompt.Input(
                    "prompt",
                    optional=True,
                    tooltip="Text with pictures, from Multimodal Prompt; stands before text.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=512,
                    min=1,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="Most tokens of an answer, 66 per picture included. Published: 120 for "
                    "drawing, 512 for editing.",
                ),
                *sampling_inputs(0.0, 0, 0.0, "Published: temperature 0, the likeliest.", True),
                seed_input("Seed of the answer's words; of no effect at temperature 0."),
            ],
            outputs=[
                ImageFeatures.Output(
                    "features", display_name="image features", tooltip="For SEED-X Conditioning."
                ),
                io.String.Output("answer", tooltip="What the model wrote."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        task: str,
        text: str,
        force_picture: bool,
        image: Tensor | None = None,
        prompt=None,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int = 0,
    ) -> io.NodeOutput:
        need(model, host.SeedX, "SEED-X", "Imagine Picture")
        parts = [
            *(prompt.parts if prompt is not None else ()),
            *(image if image is not None else ()),
        ]
        whole, shown = seed_x.with_places(parts, text)
        template = seed_x.TEMPLATES[task]
        if force_picture and not template.endswith("<img>"):
            template += "<img>"
        edits = task.startswith("edit")
        embeds = read_pictures(model, shown, pictures.EDITING_GRIDS if edits else None)
        context = seed_x.prompt(model.text, model.tokens, template, whole, embeds)
        more = len(model.tokens.chain) if force_picture else max_tokens
        check_room(context, more, model.positions, len(shown))
        sampling = TokenSampling(temperature, top_k, top_p)
        modules = (model.language.module, model.agent.module, model.tokens)
        answer, length = "", len(context.ids) + more
        needed = memory_required(model.language.module, length, 0 if force_picture else length)
        with host.loaded(model.language, model.agent, memory_required=needed) as device:
            if force_picture:
                features = seed_x.drawn_features(*modules, [context], device)
            else:
                limits = (max_tokens, sampling, seed)
                follow = host.following(model)
                found = seed_x.answer(*modules, context, device, *limits, on_token=follow)
                answer = seed_x.readable(model.text.decode(found.turn.ids))
                features = seed_x.one_picture(found, answer, max_tokens)
        require_finite(features, "The imagined picture", model.modules())
        return io.NodeOutput(Features.of(features, of_nothing(model)), answer)


def read_pictures(model: host.SeedX, images: list[Tensor], grids=None) -> list[Tensor]:
    """Input embeddings of pictures, which only then need the vision encoder."""
    if not images:
        return []
    vision = model.needs_vision("A picture in the prompt")
    with host.loaded(vision, model.agent) as device:
        modules = (vision.module, model.agent.module)
        chosen = grids or pictures.READING_GRIDS
        return [seed_x.read_picture(*modules, image, device, chosen) for image in images]


def of_nothing(model: host.SeedX) -> Tensor:
    """The unconditional features, computed once per loaded model."""
    if "nothing" not in model.memo:
        vision = model.needs_vision("Guidance")
        with host.loaded(vision) as device, torch.inference_mode():
            model.memo["nothing"] = vision.module.unconditional(device).float().cpu()
    return model.memo["nothing"]


class ReadSeedXPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenReadSeedXPicture",
            display_name="Read Picture (SEED-X)",
            category="mmgen/conditioning",
            description="Reads pictures into the 256 features from which SEED-X's SDXL draws them "
            "again: a variation that keeps the content, not the pixels.",
            search_aliases=[*ALIASES, "de-tokenize", "reconstruct", "image variation", "encode"],
            inputs=[
                QueryModel.Input("model", tooltip="SEED-X, for its vision encoder."),
                io.Image.Input("image", tooltip="Pictures to read; each is squashed to a square."),
            ],
            outputs=[
                ImageFeatures.Output(
                    "features", display_name="image features", tooltip="For SEED-X Conditioning."
                )
            ],
        )

    @classmethod
    def execute(cls, model, image: Tensor) -> io.NodeOutput:
        need(model, host.SeedX, "SEED-X", "Read Picture")
        vision = model.needs_vision("Read Picture")
        side = vision.module.params.image_size
        with host.loaded(vision) as device, torch.inference_mode():
            squashed = torch.cat([pictures.squashed(picture, side) for picture in image])
            features = vision.module(squashed.to(device))
        require_finite(features, "The picture's features", {vision.file: vision.module})
        return io.NodeOutput(Features.of(features, of_nothing(model)))


class LoadSeedXDetokenizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLoadSeedXDetokenizer",
            display_name="Load SEED-X De-tokenizer",
            category="mmgen/loaders",
            description="Loads the SDXL that draws from SEED-X's image features: its UNet as a "
            "MODEL for any sampler, and the adapter for SEED-X Conditioning.",
            search_aliases=[*ALIASES, "loader", "detokenizer", "sdxl", "unet"],
            inputs=[
                io.Combo.Input(
                    "detokenizer_name",
                    options=host.model_files(),
                    tooltip="seed_detokenizer/first_stage/pytorch_model.bin to draw, second_stage "
                    "to edit. Recognised from the file.",
                ),
                dtype_input(),
                io.Model.Input(
                    "base_model",
                    optional=True,
                    tooltip="SDXL base 1.0 from Load Checkpoint; only where the file holds no more "
                    "than the trained part of the UNet, which is then laid on it.",
                ),
            ],
            outputs=[
                io.Model.Output("unet", display_name="MODEL", tooltip="For a KSampler."),
                Detokenizer.Output(
                    "detokenizer", display_name="de-tokenizer", tooltip="For SEED-X Conditioning."
                ),
            ],
        )

    @classmethod
    def execute(cls, detokenizer_name: str, dtype: str, base_model=None) -> io.NodeOutput:
        return io.NodeOutput(*host.load_detokenizer(detokenizer_name, dtype, base_model))


class SeedXConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenSeedXConditioning",
            display_name="SEED-X Conditioning",
            category="mmgen/conditioning",
            description="Turns SEED-X's image features into conditions for its own SDXL, with a "
            "source picture for editing.",
            search_aliases=[*ALIASES, "sdxl", "edit", "instructpix2pix", "dual cfg"],
            inputs=[
                Detokenizer.Input("detokenizer", tooltip="From Load SEED-X De-tokenizer."),
                ImageFeatures.Input("features", tooltip="From Imagine Picture or Read Picture."),
                io.Image.Input(
                    "source_image",
                    optional=True,
                    tooltip="The picture to edit; needs the second stage's de-tokenizer.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="SDXL's VAE, for the source picture."),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=64,
                    max=4096,
                    step=8,
                    optional=True,
                    tooltip="Width of the picture that will be drawn; the source is squashed to "
                    "it. Trained for 1024.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    min=64,
                    max=4096,
                    step=8,
                    optional=True,
                    tooltip="Height of the picture that will be drawn.",
                ),
                io.Model.Input(
                    "diffusion_model",
                    optional=True,
                    tooltip="The MODEL that will draw; connected here, it is checked to fit.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive", tooltip="For KSampler, or cond1 of Dual CFG Guider."
                ),
                io.Conditioning.Output(
                    "negative", tooltip="Features of nothing, and no source picture."
                ),
                io.Conditioning.Output(
                    "image_only",
                    display_name="image only",
                    tooltip="The source picture without the edit: cond2 of Dual CFG Guider, whose "
                    "cfg_conds is the guidance (7.5) and cfg_cond2_negative the image guidance "
                    "(1.5), style regular. Without a source the same as negative.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        detokenizer: host.Detokenizer,
        features: Features,
        source_image: Tensor | None = None,
        vae=None,
        width: int = 1024,
        height: int = 1024,
        diffusion_model=None,
    ) -> io.NodeOutput:
        if diffusion_model is not None:
            width_of_context = sum(detokenizer.module.params.context_widths)
            channels = 8 if detokenizer.edits else 4
            host.check_model(diffusion_model, width_of_context, channels, "SEED-X")
        extras = source(detokenizer, source_image, vae, (width, height))
        with host.loaded(detokenizer) as device:
            drawn, nothing = seed_x.conditions(detokenizer.module, features, device)
        require_finite(drawn[0], "The condition", {detokenizer.part.file: detokenizer.module})
        drawn, nothing = (
            tuple(host.to_output(t.float()) for t in pair) for pair in (drawn, nothing)
        )
        return io.NodeOutput(
            host.conditioning(*drawn, **extras),
            host.conditioning(*nothing),
            host.conditioning(*nothing, **extras),
        )


def source(
    detokenizer: host.Detokenizer, image: Tensor | None, vae, size: tuple[int, int]
) -> dict[str, Tensor]:
    """What the conditions say of the picture that is edited."""
    if image is None:
        return {}
    if not detokenizer.edits:
        raise ValueError(
            f"{detokenizer.part.file} is SEED-X's first stage, which cannot edit. Load "
            f"seed_detokenizer/second_stage, or disconnect source_image."
        )
    if vae is None:
        raise ValueError("A source picture needs SDXL's VAE: connect vae.")
    squashed = torch.stack([pictures.resized(picture, size) for picture in image])
    return {"concat_latent_image": host.source_latent(vae, squashed)}
