"""Image tokens themselves: mask, look at, save, load."""

from __future__ import annotations

from torch import Tensor

from ..mmgen_core.image_tokens import ImageTokens
from ..mmgen_core.token_maps import blend_mask, code_map_grid, token_mask
from . import host
from .api import Tokens, io, ui


class TokenMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenTokenMask",
            display_name="Token Mask",
            category="mmgen/tokens",
            description="Marks the tokens under a mask to be redrawn by the sampler; the others "
            "are kept.",
            search_aliases=["var", "inpaint", "outpaint", "mask", "edit tokens"],
            inputs=[
                Tokens.Input("tokens", tooltip="Tokens of the picture to edit."),
                io.Mask.Input(
                    "mask",
                    tooltip="White is redrawn, black is kept. Any size with the picture's "
                    "aspect ratio.",
                ),
                io.Float.Input(
                    "coverage",
                    default=0.1,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Redraw a token if more than this share of its area is masked.",
                ),
            ],
            outputs=[
                Tokens.Output(
                    "masked_tokens", display_name="image tokens", tooltip="The masked tokens."
                ),
                io.Mask.Output(
                    "token_mask",
                    display_name="mask",
                    tooltip="The area of the tokens that will be redrawn, with a soft inner edge, "
                    "in the size of the mask; use it to put the untouched pixels back.",
                ),
            ],
        )

    @classmethod
    def execute(cls, tokens: ImageTokens, mask: Tensor, coverage: float) -> io.NodeOutput:
        mask_BHW = mask.reshape(-1, *mask.shape[-2:])
        if tokens.batch != 1 and len(mask_BHW) not in (1, tokens.batch):
            raise ValueError(f"{len(mask_BHW)} masks do not fit {tokens.batch} pictures.")
        redraw = token_mask(mask_BHW.cpu(), tokens.grid, coverage)
        shown = host.to_output(blend_mask(redraw, mask_BHW.shape[-2:]))
        return io.NodeOutput(tokens.with_mask(redraw), shown)


class ViewTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenViewTokens",
            display_name="View Image Tokens",
            category="mmgen/tokens",
            description="Shows the code map of every scale, a colour per code, coarse to fine.",
            search_aliases=["var", "preview tokens", "code map", "visualize", "scales"],
            inputs=[
                Tokens.Input("tokens", tooltip="The image tokens to look at."),
                io.Int.Input(
                    "map_size",
                    default=128,
                    min=16,
                    max=2048,
                    tooltip="Width and height of one map in pixels.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="All maps side by side, one sheet per picture.")
            ],
        )

    @classmethod
    def execute(cls, tokens: ImageTokens, map_size: int) -> io.NodeOutput:
        return io.NodeOutput(host.to_output(code_map_grid(tokens.ids, map_size)))


class SaveTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenSaveTokens",
            display_name="Save Image Tokens",
            category="mmgen/tokens",
            description="Saves image tokens to output/tokens: a few kilobytes per picture.",
            search_aliases=["var", "save tokens", "export", "codes"],
            is_output_node=True,
            inputs=[
                Tokens.Input("tokens", tooltip="The image tokens to save."),
                io.String.Input(
                    "filename_prefix",
                    default="mmgen",
                    tooltip="Beginning of the name, with folders if you like, below output/tokens.",
                ),
            ],
        )

    @classmethod
    def execute(cls, tokens: ImageTokens, filename_prefix: str) -> io.NodeOutput:
        path, name = host.new_tokens_path(filename_prefix)
        tokens.save(path)
        return io.NodeOutput(
            ui=ui.PreviewText(f"{name}: {tokens.batch} pictures, {tokens.codebook}")
        )


class LoadTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenLoadTokens",
            display_name="Load Image Tokens",
            category="mmgen/tokens",
            description="Loads image tokens that Save Image Tokens wrote.",
            search_aliases=["var", "load tokens", "import", "codes"],
            inputs=[
                io.Combo.Input(
                    "tokens_name",
                    options=host.tokens_files(),
                    tooltip="A saved file in output/tokens or in the input folder.",
                )
            ],
            outputs=[Tokens.Output("tokens", display_name="image tokens", tooltip="The tokens.")],
        )

    @classmethod
    def fingerprint_inputs(cls, tokens_name: str) -> int:
        return host.tokens_path(tokens_name).stat().st_mtime_ns

    @classmethod
    def execute(cls, tokens_name: str) -> io.NodeOutput:
        return io.NodeOutput(ImageTokens.load(host.tokens_path(tokens_name)))
