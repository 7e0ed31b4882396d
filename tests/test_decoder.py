"""The shared decoder against those of transformers; packed, cached passes against whole ones."""

from __future__ import annotations

import pytest
import torch
import transformers

from mmgen_core.models.decoder import Decoder, DecoderParams, Segment, interleaved_to_halves

LLAMA = DecoderParams(3, 32, 4, 2, 48, 40, head_blocks=(8, 20, 12), norm_eps=1e-6)
PHI = DecoderParams(
    2,
    32,
    4,
    4,
    64,
    40,
    norm="layer",
    qk_norm="shared",
    rotary_share=0.5,
    gated=False,
    parallel=True,
    attention_bias=True,
    output_bias=True,
    mlp_bias=True,
    head_bias=True,
)
CHAMELEON = DecoderParams(2, 32, 4, 2, 48, 40, norm_after=True, qk_norm="per head")


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module.eval().requires_grad_(False)


def renamed(decoder: Decoder, names: dict[str, str], prefix: str = "model.") -> dict:
    state = {}
    for key, tensor in decoder.state_dict().items():
        if not key.startswith("head."):
            for ours, theirs in names.items():
                key = key.replace(ours, theirs)
            state[prefix + key] = tensor
    for part in ("weight", "bias"):
        if f"head.0.{part}" in decoder.state_dict():
            state[f"lm_head.{part}"] = torch.cat([getattr(b, part) for b in decoder.head])
    return state


def test_llama_is_that_of_transformers():
    decoder = randomised(Decoder(LLAMA))
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
    )
    names = {
        "embed.": "embed_tokens.",
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        ".attention.": ".self_attn.",
        ".mlp.gate": ".mlp.gate_proj",
        ".mlp.up": ".mlp.up_proj",
        ".mlp.down": ".mlp.down_proj",
        **{f"attn.{x}.": f"attn.{x}_proj." for x in "qkvo"},
    }
    compare(decoder, transformers.LlamaForCausalLM(config), renamed(decoder, names))


def test_phi_is_that_of_transformers():
    decoder = randomised(Decoder(PHI))
    config = transformers.PhiConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        partial_rotary_factor=0.5,
        qk_layernorm=True,
        attn_implementation="eager",
    )
    names = {
        "embed.": "embed_tokens.",
        "attention_norm": "input_layernorm",
        ".attention.q_norm": ".self_attn.q_layernorm",
        ".attention.k_norm": ".self_attn.k_layernorm",
        ".attention.o.": ".self_attn.dense.",
        ".attention.": ".self_attn.",
        ".mlp.up": ".mlp.fc1",
        ".mlp.down": ".mlp.fc2",
        **{f"attn.{x}.": f"attn.{x}_proj." for x in "qkv"},
    }
    state = renamed(decoder, names)
    state = {k.replace("model.norm.", "model.final_layernorm."): v for k, v in state.items()}
    compare(decoder, transformers.PhiForCausalLM(config), state)


def compare(decoder: Decoder, peer: torch.nn.Module, state: dict) -> None:
    peer.load_state_dict(state)
    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(1))
    ours = decoder.scores(decoder.hidden_states(decoder.embed_ids(ids)))
    with torch.inference_mode():
        torch.testing.assert_close(ours, peer.eval()(ids).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("params", [LLAMA, PHI, CHAMELEON])
def test_packed_parts_equal_whole_sequences(params):
    decoder = randomised(Decoder(params))
    x = [torch.randn(1, n, 32, generator=torch.Generator().manual_seed(n)) for n in (5, 8)]
    whole = [decoder.hidden_states(row)[0] for row in x]
    caches = [decoder.cache(1, 8, "cpu") for _ in x]
    seen = [[], []]
    for counts in ((3, 1), (1, 5), (1, 2)):  # prompts of different length, read in parts
        starts = [cache.length for cache in caches]
        parts = [row[0, s : s + c] for row, s, c in zip(x, starts, counts, strict=True)]
        segments = [Segment(cache, c) for cache, c in zip(caches, counts, strict=True)]
        hidden = decoder(torch.cat(parts), segments)
        for rows, part in zip(seen, hidden.split(counts), strict=True):
            rows.append(part)
    for rows, expected in zip(seen, whole, strict=True):
        torch.testing.assert_close(torch.cat(rows), expected, atol=1e-5, rtol=1e-5)


def test_visited_again_without_growing():
    decoder = randomised(Decoder(PHI))
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    mask[3:, 3:] = True  # omni-attention: text is causal, the picture sees all of itself
    expected = decoder.hidden_states(x, mask)[:, 3:]
    cache = decoder.cache(2, 7, "cpu")
    decoder(x[:, :3].flatten(0, 1), [Segment(cache, 3)])
    for _ in range(2):
        again = decoder(x[:, 3:].flatten(0, 1), [Segment(cache, 4, "full", keep=False)])
        assert cache.length == 3
        torch.testing.assert_close(again.view(2, 4, -1), expected, atol=1e-5, rtol=1e-5)


def test_forked_rows_continue_alike():
    decoder = randomised(Decoder(LLAMA))
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    whole = decoder.hidden_states(x[None])[0]
    cache = decoder.cache(1, 5, "cpu")
    decoder(x[:5], [Segment(cache, 5)])
    rows = decoder(x[5:].expand(3, -1), [Segment(cache.fork(3, 6), 1)])
    torch.testing.assert_close(rows, whole[5:].expand(3, -1), atol=1e-5, rtol=1e-5)
    assert cache.length == 5


def test_blocks_of_the_head_are_parts_of_the_whole():
    decoder = randomised(Decoder(LLAMA))
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    whole = decoder.scores(hidden)
    assert whole.shape == (4, 40)
    torch.testing.assert_close(decoder.scores(hidden, slice(1, 2)), whole[:, 8:28])


def test_no_room_is_an_error():
    decoder = Decoder(LLAMA)
    with pytest.raises(ValueError, match="would have 3 tokens, room was made for 2"):
        Segment(decoder.cache(1, 2, "cpu"), 3)
    with pytest.raises(ValueError, match="hold 2 tokens, 3 were given"):
        decoder(torch.zeros(3, 32), [Segment(decoder.cache(1, 2, "cpu"), 2)])


def test_neighbouring_pairs_become_halves():
    rows = torch.arange(8)[:, None]
    assert interleaved_to_halves(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
