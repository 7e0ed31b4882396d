"""Files of SEED-X and DreamLLM: what belongs together, added tokens, older forms, numbers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import tiny_queries
import tiny_query_files
import torch
from tiny_queries import CLIP

from mmgen_core.checkpoints import CheckpointError, read_checkpoint
from mmgen_core.checkpoints.architecture import build, require_finite
from mmgen_core.checkpoints.files import Checkpoint
from mmgen_core.conditioners.streaming import streaming_note
from mmgen_core.decoding.query_spans import memory_required
from mmgen_core.models.decoder import Decoder, DecoderParams
from mmgen_core.models.dream_queries import DreamProjector, DreamProjectorParams
from mmgen_core.systems import dreamllm, identify, seed_x
from mmgen_core.systems.query_files import agent_file, dreamllm_files, is_dreamllm, vit_file
from mmgen_core.tokenizers.added_tokens import AddedTokens
from mmgen_core.tokenizers.text import SentencePieceTokenizer


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> SentencePieceTokenizer:
    """A sentencepiece model of a few words, with an added_tokens.json beside it."""
    import sentencepiece

    folder, model = tmp_path_factory.mktemp("words"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red cat", "the blue sky", "a dog is red"] * 20),
        model_writer=model,
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "added_tokens.json").write_text(json.dumps({"<img>": 40, "<img_00000>": 41}))
    return SentencePieceTokenizer(folder / "tokenizer.model")


def test_text_is_cut_at_added_tokens(pieces):
    text = AddedTokens(pieces, "never")
    red = pieces.encode("red")
    assert text.encode("red<img>red") == [*red, 40, *red], "each piece with a space in front"
    assert text.encode("<img><img_00000>") == [40, 41]
    assert text.encode("red <img>") == [*pieces.encode("red "), 40]
    assert AddedTokens(pieces, "never", strip=True).encode("red <img> red") == [*red, 40, *red]
    assert text.id_of("<img_00000>") == 41 and len(text) == 42
    assert text.decode([*red, 40, *pieces.encode("a cat")]) == "red<img>a cat"


def test_dreamllm_has_three_files(tmp_path):
    tiny_query_files.write_dreamllm(tmp_path)
    language = tmp_path / "model.safetensors.index.json"
    assert is_dreamllm(language)
    found = dreamllm_files(language)
    assert found["vision"].name == "clip_vision_embedding.safetensors", "converted ones serve"
    (tmp_path / "dream_embedding.bin").unlink()
    with pytest.raises(CheckpointError, match="missing beside it: dream_embedding.bin"):
        dreamllm_files(language)


def test_seed_x_finds_what_belongs_to_it(tmp_path):
    tiny_query_files.write_seed_x(tmp_path, pickled=True)
    language = tmp_path / "seed_x" / "llm" / "pytorch_model.bin.index.json"
    assert agent_file(language).parent.name == "agent"
    assert vit_file(language, []).name == "qwen_vit_G.safetensors"
    shards = read_checkpoint(language)
    assert identify(shards).architecture.name == "LLaMA language model"
    assert build(identify(shards), shards).params.heads == 2
    with pytest.raises(CheckpointError, match="no resamplers beside it"):
        agent_file(tmp_path / "elsewhere" / "llm" / "model.safetensors")
    assert vit_file(Path("/nowhere/llm/x.bin"), [tmp_path / "none"]) is None


def test_vit_within_a_whole_qwen_checkpoint():
    net = tiny_queries.vit()
    tensors = seed_x.publish_vit(net.state_dict(), net.params)
    whole = {f"transformer.visual.{k}": v for k, v in tensors.items()}
    whole |= {"transformer.wte.weight": torch.zeros(2, 2), "lm_head.weight": torch.zeros(2, 2)}
    checkpoint = Checkpoint(Path("qwen.bin"), whole, {"visual": {"heads": 2, "image_size": 24}})
    other = build(identify(checkpoint, "vision encoder"), checkpoint)
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize("widths", [(32, 12), (32, 20, 12)])
def test_projectors_of_one_and_two_layers(widths):
    params = DreamProjectorParams(widths, pooled_width=5)
    net = tiny_queries.randomise(DreamProjector(params), 0)
    tensors = dreamllm.publish_projector(net.state_dict(), params)
    assert ("projector.projector.2.weight" in tensors) == (len(widths) > 2)
    checkpoint = Checkpoint(Path("head.bin"), tensors)
    other = build(identify(checkpoint, "condition projector"), checkpoint)
    x = torch.randn(2, 4, 32)
    for a, b in zip(net(x), other(x), strict=True):
        assert torch.equal(a, b)


def test_older_projector_file():
    checkpoint = Checkpoint(Path("unet_projector.pt"), {"projector.weight": torch.randn(12, 32)})
    assert identify(checkpoint, "condition projector").params.widths == (32, 12)


def test_vision_file_has_a_layer_that_is_never_run():
    net = tiny_queries.clip()
    tensors = dreamllm.publish_vision(net.state_dict(), CLIP)
    layers = {k.split("layers.")[1].split(".")[0] for k in tensors if ".layers." in k}
    assert (
        layers == {"0", "1"} and identify(Checkpoint(Path("clip.bin"), tensors)).params.depth == 1
    )


def test_streaming_is_told_in_numbers():
    fits = streaming_note("SEED-X", 10 * 2**30, 12 * 2**30, "cuda:0")
    assert fits.endswith("it stays there.") and "10.0 GiB" in fits
    streamed = streaming_note("SEED-X", 25 * 2**30, 5 * 2**30, "cuda:0")
    assert "about 20.0 GiB are streamed in every pass, 0.8 s" in streamed and "int8" in streamed


def test_nan_is_blamed_on_the_file():
    net = tiny_queries.projector()
    net.layers[0].weight.data[0, 0] = torch.nan
    bad = net(torch.ones(1, 2, 32))[0]
    with pytest.raises(FloatingPointError, match="stable_diffusion_head has NaN .* layers.0"):
        require_finite(bad, "The condition", {"stable_diffusion_head": net})
    with pytest.raises(FloatingPointError, match="precision overflowed"):
        require_finite(bad, "The condition", {"other": tiny_queries.projector()})


def test_memory_grows_with_tokens_and_cache():
    """At SEED-X's size a picture takes far less than an answer with its cache."""
    params = DecoderParams(40, 5120, 40, 40, 13824, 32330)
    model = Decoder(params, torch.float16, "meta")
    picture, answer = memory_required(model, 110), memory_required(model, 4096, 4096)
    assert 10e6 < picture < 100e6
    assert answer > 2 * 40 * 2 * 5120 * 2 * 4096, "the prompt's cache and its copy"
