"""SEED tokens changed by hand before they are drawn."""

from __future__ import annotations

from ..mmgen_core.image_tokens import ImageTokens
from ..mmgen_core.tokenizers.seed_edit import as_text, mixed, positions, with_codes
from . import host
from .api import Tokens, io, ui
from .seed import ALIASES, tokenizer_input

WHERE = "Which of the 32 places, as numbers and ranges from 0, such as 0-7, 12; all for every one. "


class MixSeedTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenMixSeedTokens",
            display_name="Mix SEED Tokens",
            category="mmgen/tokens",
            description="Mixes two pictures token by token: takes over some places of the second, "
            "or blends their code vectors.",
            search_aliases=["var", *ALIASES, "interpolate", "blend", "swap tokens", "morph"],
            inputs=[
                tokenizer_input(),
                Tokens.Input("tokens", tooltip="The first pictures."),
                Tokens.Input("other_tokens", tooltip="The pictures to take from."),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the other pictures at these places. 1 takes their tokens "
                    "over; in between, code vectors are blended: Stable Diffusion draws those, a "
                    "language model cannot read them.",
                ),
                io.String.Input("places", default="all", tooltip=WHERE + "The first are coarse."),
            ],
            outputs=[
                Tokens.Output("mixed", display_name="image tokens", tooltip="The mixed tokens.")
            ],
        )

    @classmethod
    def execute(
        cls,
        tokenizer: host.SeedCodec,
        tokens: ImageTokens,
        other_tokens: ImageTokens,
        share: float,
        places: str,
    ) -> io.NodeOutput:
        tokenizer = host.checked_seed(tokenizer)
        where = positions(places, tokenizer.module.params.codes)
        with host.loaded(tokenizer) as device:
            return io.NodeOutput(
                mixed(tokenizer.module, tokens, other_tokens, share, where, device)
            )


class EditSeedTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MMGenEditSeedTokens",
            display_name="Edit SEED Tokens",
            category="mmgen/tokens",
            description="Sets SEED tokens to codes of your choice and shows all 32 of them.",
            search_aliases=["var", *ALIASES, "set tokens", "codes", "token ids"],
            inputs=[
                tokenizer_input(),
                Tokens.Input("tokens", tooltip="The tokens to change or to look at."),
                io.String.Input("places", default="0", tooltip=WHERE),
                io.String.Input(
                    "codes",
                    default="",
                    tooltip="A code per place, or one for all of them, such as 17 4021. Empty "
                    "changes nothing.",
                ),
            ],
            outputs=[
                Tokens.Output("edited", display_name="image tokens", tooltip="The changed tokens."),
                io.String.Output(
                    "ids", display_name="codes", tooltip="All codes, a line per picture."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, tokenizer: host.SeedCodec, tokens: ImageTokens, places: str, codes: str
    ) -> io.NodeOutput:
        params = host.checked_seed(tokenizer).module.params
        tokens.check_codebook(tokenizer.module.fingerprint)
        words = codes.replace(",", " ").split()
        if wrong := [word for word in words if not word.isdigit()]:
            raise ValueError(f"{wrong[0]!r} is no code: give numbers from 0 to {params.vocab - 1}.")
        if words:
            where = positions(places, params.codes)
            tokens = with_codes(tokens, where, [int(word) for word in words], params.vocab)
        text = as_text(tokens)
        return io.NodeOutput(tokens, text, ui=ui.PreviewText(text))
