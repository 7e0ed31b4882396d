"""The nodes of this pack, one file per topic."""

from . import host
from .api import ComfyExtension, io
from .classes import ClassByName, ImageNetClass
from .dialogue import DialogueTurn
from .flow import FlowSampler, FlowStory
from .interleaved import InterleavedSampler
from .layout import CheckLayout, PlanLayout, ReadLayout
from .layout_use import (
    ComposeLayout,
    DrawLayout,
    LayoutToElements,
    LayoutToGligen,
    LayoutToMasks,
    LayoutToRegions,
)
from .llm import ConnectLLMEndpoint, LoadLLM
from .masked import Extrapolate, LoadMaskedModel, MaskedClip, MaskedSampler
from .next_token import LoadNextTokenModel, NextTokenClip, TokenImageSampler
from .next_token_prompt import MultimodalPromptNode
from .query_models import DreamQueries, DreamSigmas, LoadQueryModel
from .rewrite import RewritePrompt
from .scale import LoadScaleModel, ScaleSampler
from .scale_text import EncodeScaleText, LoadTextEncoder
from .seed import EncodeSeed, LoadSeedTokenizer, SeedCondition, SeedEmbedding
from .seed_edit import EditSeedTokens, MixSeedTokens
from .seed_x import LoadSeedXDetokenizer, ReadSeedXPicture, SeedXConditioning, SeedXFeatures
from .seed_x_boxes import SeedXBoxes
from .small_diffusion import LoadSmallDiffusion
from .story import StoryParts, StoryTurn, TellStory
from .tokenizer import DecodeTokens, EncodeImage, LoadImageTokenizer
from .tokens import LoadTokens, SaveTokens, TokenMask, ViewTokens
from .unified_io import FitMap, UnifiedIOFind, UnifiedIOTask

NODES: list[type[io.ComfyNode]] = [
    LoadScaleModel,
    LoadImageTokenizer,
    ImageNetClass,
    ClassByName,
    ScaleSampler,
    LoadTextEncoder,
    EncodeScaleText,
    EncodeImage,
    DecodeTokens,
    TokenMask,
    ViewTokens,
    SaveTokens,
    LoadTokens,
    LoadNextTokenModel,
    NextTokenClip,
    MultimodalPromptNode,
    TokenImageSampler,
    InterleavedSampler,
    LoadQueryModel,
    DreamQueries,
    DreamSigmas,
    SeedXFeatures,
    ReadSeedXPicture,
    LoadSeedXDetokenizer,
    SeedXConditioning,
    SeedXBoxes,
    StoryTurn,
    TellStory,
    StoryParts,
    LoadMaskedModel,
    MaskedSampler,
    Extrapolate,
    MaskedClip,
    FlowSampler,
    FlowStory,
    UnifiedIOTask,
    UnifiedIOFind,
    FitMap,
    DialogueTurn,
    LoadSeedTokenizer,
    LoadSmallDiffusion,
    EncodeSeed,
    SeedCondition,
    SeedEmbedding,
    MixSeedTokens,
    EditSeedTokens,
    LoadLLM,
    ConnectLLMEndpoint,
    RewritePrompt,
    PlanLayout,
    ReadLayout,
    CheckLayout,
    LayoutToGligen,
    LayoutToRegions,
    LayoutToMasks,
    DrawLayout,
    LayoutToElements,
    ComposeLayout,
]


class MMGenExtension(ComfyExtension):
    async def on_load(self) -> None:
        host.register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
