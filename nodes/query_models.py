"""Language models that steer a diffusion model by learned queries: SEED-X and DreamLLM."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mmgen_core.checkpoints.architecture import require_finite
from ..mmgen_core.conditioners import dreamllm
from ..mmgen_core.conditioners.story import check_room
from ..mmgen_core.decoding.latent_diffusion import leading_timesteps, sigmas
from ..mmgen_core.decoding.query_spans import memory_required
from . import host
from .api import Prompt, QueryModel, io
from .inputs import dtype_input

AUTO = "auto"
ALIASES = ["seed-x", "dreamllm", "multimodal llm", "condition", "var"]


class LoadQueryModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = host.model_files()
        return io.Schema(
            node_id="MMGenLoadQueryModel",
            display_name="Load Query Model (SEED-X, DreamLLM)",
            category="mmgen/loaders",
            description="Loads SEED-X or DreamLLM, language models whose learned queries steer "
            "SDXL or Stable Diffusion 2.1.",
            search_aliases=[*ALIASES, "loader", "dream queries", "vqa", "caption"],
            inputs=[
                io.Combo.Input(
                    "language_model",
                    options=files,
                    tooltip="The language model in models/mmgen: of a sharded one its index. "
                    "Keep the folders of the repository as they are; what belongs to it is found "
                    "beside it, the text tokenizer too.",
                ),
                dtype_input(),
                io.Combo.Input(
                    "agent",
                    options=[AUTO, *files],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="SEED-X's resamplers. auto: the file in the folder agent beside the "
                    "language model's. Not used for DreamLLM.",
                ),
                io.Combo.Input(
                    "vision_encoder",
                    options=[AUTO, *files],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="SEED-X's vision encoder, qwen_vit_G.pt. auto: found in a folder "
                    "QwenViT or in models/mmgen. DreamLLM's lies beside its language model.",
                ),
                io.Combo.Input(
                    "prompt_style",
                    options=[AUTO, "base", "instruct"],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="How SEED-X is asked by Generate Text: base for SEED-X, instruct for "
                    "SEED-X-I and SEED-X-Edit. auto: by the name of the folder.",
                ),
            ],
            outputs=[
                QueryModel.Output(
                    "model", display_name="query model", tooltip="For the nodes of its system."
                ),
                io.Clip.Output(
                    "clip", tooltip="For the stock Generate Text: captions, answers, boxes."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        language_model: str,
        dtype: str,
        agent: str = AUTO,
        vision_encoder: str = AUTO,
        prompt_style: str = AUTO,
    ) -> io.NodeOutput:
        model = host.load_query_model(language_model, agent, vision_encoder, dtype)
        style = host.prompt_style(language_model, prompt_style)
        return io.NodeOutput(model, host.as_text_model(model, style))


class DreamQueries(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenDreamQueries",
            display_name="Dream Queries (DreamLLM)",
            category="mmgen/conditioning",
            description="Lets DreamLLM read a text, with pictures if you like, and gives the "
            "conditions that its dream queries make of it, for Stable Diffusion 2.1.",
            search_aliases=[*ALIASES, "dream queries", "text to image", "clip text encode"],
            inputs=[
                QueryModel.Input("model", tooltip="DreamLLM, from Load Query Model."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw, as a bare caption. The published script puts "
                    "'(best quality,extremely detailed) ' in front; brackets are plain characters "
                    "here.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="",
                    dynamic_prompts=True,
                    tooltip="What to be guided away from; another caption. Empty is the "
                    "unconditional branch.",
                ),
                Prompt.Input(
                    "prompt",
                    optional=True,
                    tooltip="Text with pictures, from Multimodal Prompt; stands before text.",
                ),
                io.Model.Input(
                    "diffusion_model",
                    optional=True,
                    tooltip="The MODEL that will draw; connected here, it is checked to be a "
                    "Stable Diffusion 2.x.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="For a KSampler with an SD 2.1 MODEL."),
                io.Conditioning.Output("negative", tooltip="For the same KSampler."),
            ],
        )

    @classmethod
    def execute(
        cls, model, text: str, negative: str, prompt=None, diffusion_model=None
    ) -> io.NodeOutput:
        need(model, host.DreamLLM, "DreamLLM", "Dream Queries")
        if diffusion_model is not None:
            host.check_model(
                diffusion_model, model.projector.module.params.widths[-1], 4, "DreamLLM"
            )
        parts = (*(prompt.parts if prompt is not None else ()), text)
        needed = memory_required(model.language.module, 2 * model.positions)
        with host.loaded(*model.parts().values(), memory_required=needed) as device:
            positive = dream_context(model, parts, device)
            contexts = [positive, dream_context(model, (negative,), device)]
            modules = (model.language.module, model.queries.module, model.projector.module)
            context, pooled = dreamllm.conditions(*modules, model.tokens, contexts, device)
        require_finite(context, "The condition", model.modules())
        both = [context] if pooled is None else [context, pooled]  # pooled: of the SDXL variant
        rows = zip(*(tensor.split(1) for tensor in both), strict=True)
        return io.NodeOutput(*(host.conditioning(*host.to_outputs(*row)) for row in rows))


def dream_context(model: host.DreamLLM, parts: tuple, device: torch.device):
    """A prompt of texts and pictures as DreamLLM reads it."""
    document = [
        dreamllm.Words(part)
        if isinstance(part, str)
        else dreamllm.Seen(dreamllm.read_picture(model.vision.module, part, device))
        for part in parts
        if isinstance(part, Tensor) or part
    ]
    queries = model.queries.module(device)
    context = dreamllm.document(model.text, model.tokens, queries, document)
    pictures = sum(isinstance(part, Tensor) for part in parts)
    check_room(context, len(queries) + 2, model.positions, pictures)
    return context


def need(model: host.QueryModel, kind: type, name: str, node: str) -> None:
    """Whether a node's model is of the system that it works with."""
    if not isinstance(model, kind):
        raise ValueError(
            f"{node} works with {name}; {model.language.file} is a {model.name}. Connect {name}, "
            f"or use the nodes of {model.name}."
        )


class DreamSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenDreamSigmas",
            display_name="DreamLLM Sigmas",
            category="mmgen/sampling",
            description="The noise levels of DreamLLM's scripts, which the stock schedulers lack "
            "where the steps do not divide 1000: 150 steps begin below the noisiest level.",
            search_aliases=[*ALIASES, "sigmas", "scheduler", "ddpm", "150 steps"],
            inputs=[
                io.Int.Input(
                    "steps",
                    default=150,
                    min=1,
                    max=1000,
                    tooltip="150 in the published script, 100 in its command line, 50 by default.",
                )
            ],
            outputs=[io.Sigmas.Output("sigmas", tooltip="For SamplerCustom with sampler_ddpm.")],
        )

    @classmethod
    def execute(cls, steps: int) -> io.NodeOutput:
        return io.NodeOutput(sigmas(leading_timesteps(steps)))
