"""Texts for next-scale models: prompts, STAR beyond its golden cases, published layouts."""

from __future__ import annotations

import pytest
import tiny
import torch

from mmgen_core.checkpoints.files import read_checkpoint
from mmgen_core.conditioners.scale_prompt import ClassPrompt, TextFeatures, TextPrompt
from mmgen_core.decoding.next_scale import ScaleSampling, generate
from mmgen_core.models.clip_text import ClipText, ClipTextParams
from mmgen_core.systems import identify, star

SAMPLING = ScaleSampling(guidance=2.0, top_k=20, top_p=0.9)
CPU, FP32 = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def pair():
    return tiny.star_model(), tiny.tokenizer()


def row(features: TextFeatures, i: int) -> TextFeatures:
    return TextFeatures(features.hidden[i, None], features.pooled[i, None], features.mask[i, None])


def shortened(features: TextFeatures) -> TextFeatures:
    """One text without its padding."""
    length = int(features.mask.sum())
    return TextFeatures(features.hidden[:, :length], features.pooled, features.mask[:, :length])


def equal(a, b, row_a=0, row_b=0) -> bool:
    return all(torch.equal(x[row_a], y[row_b]) for x, y in zip(a.ids, b.ids, strict=True))


# Prompts


def test_one_text_serves_every_picture_of_a_batch():
    prompt = TextPrompt(tiny.texts([5]), tiny.texts([2], 1)).expand(3)
    assert prompt.batch == 3 and prompt.attended is None
    rows = prompt.rows(12, True, CPU, FP32)
    assert rows.text.hidden.shape == (6, 5, 12) and rows.attended == 3
    assert torch.equal(rows.text.pooled[0], rows.text.pooled[2])
    assert rows.text.mask.sum(1).tolist() == [5, 5, 5, 2, 2, 2]


def test_texts_of_different_lengths_are_padded_with_masked_positions():
    short, long = tiny.texts([2], 1), tiny.texts([7])
    for a, b in ((short, long), (long, short)):
        joined = a.joined(b)
        assert joined.hidden.shape == (2, 7, 12)
        assert joined.mask.sum(1).tolist() == [int(a.mask.sum()), int(b.mask.sum())]
        assert torch.equal(joined.pooled, torch.cat([a.pooled, b.pooled]))


def test_rows_without_guidance_are_the_pictures_only():
    prompt = TextPrompt(tiny.texts([5, 3]), tiny.texts([2], 1), attended=4)
    rows = prompt.rows(12, False, CPU, FP32)
    assert len(rows.text.hidden) == rows.attended == 2


def test_attended_rows_grow_with_the_batch():
    prompt = TextPrompt(tiny.texts([5]), tiny.texts([2], 1), attended=2).expand(4)
    assert prompt.attended == 8
    assert prompt.rows(12, True, CPU, FP32).attended == 8


def test_features_are_cast_and_the_mask_is_not():
    rows = TextPrompt(tiny.texts([5]), tiny.texts([2], 1)).rows(12, True, CPU, torch.bfloat16)
    assert rows.text.hidden.dtype == rows.text.pooled.dtype == torch.bfloat16
    assert rows.text.mask.dtype == torch.bool


def test_wrong_widths_and_counts_are_named():
    prompt = TextPrompt(tiny.texts([5]), tiny.texts([2], 1))
    with pytest.raises(ValueError, match=r"width 12 \(pooled 12\), this model needs 16"):
        prompt.rows(16, True, CPU, FP32)
    with pytest.raises(ValueError, match="2 texts do not fit a batch of 3"):
        TextPrompt(tiny.texts([5, 5]), tiny.texts([2])).expand(3)


# Pictures


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("own_attention", [False, True])
def test_batch_rows_equal_single_runs(pair, smooth, own_attention):
    """Also for texts of different lengths, which are padded in a batch only."""
    sampling = ScaleSampling(2.0, 20, 0.9, smooth)
    texts, negative = tiny.texts([3, 9, 6]), tiny.texts([2], 1)
    batch = generate(*pair, TextPrompt(texts, negative, 6 if own_attention else None), 7, sampling)
    for i in range(3):
        attended = 2 if own_attention else None
        prompt = TextPrompt(shortened(row(texts, i)), negative, attended)
        single = generate(*pair, prompt, 7 + i, sampling)
        assert equal(batch, single, i)
        if smooth:
            torch.testing.assert_close(batch.features[i], single.features[0], atol=1e-3, rtol=1e-3)


def test_text_negative_text_and_attention_matter(pair):
    one, other, empty = tiny.texts([5]), tiny.texts([5], 3), tiny.texts([2], 1)
    base = generate(*pair, TextPrompt(one, empty), 7, SAMPLING)
    assert equal(base, generate(*pair, TextPrompt(one, empty), 7, SAMPLING))
    assert not equal(base, generate(*pair, TextPrompt(one, empty), 8, SAMPLING))
    assert not equal(base, generate(*pair, TextPrompt(other, empty), 7, SAMPLING))
    assert not equal(base, generate(*pair, TextPrompt(one, other), 7, SAMPLING))
    assert not equal(base, generate(*pair, TextPrompt(one, empty, 2), 7, SAMPLING))


def test_negative_states_count_only_where_they_are_attended(pair):
    one, empty = tiny.texts([5]), tiny.texts([2], 1)
    other = TextFeatures(torch.randn_like(empty.hidden), empty.pooled, empty.mask)
    published = [generate(*pair, TextPrompt(one, text), 7, SAMPLING) for text in (empty, other)]
    assert equal(*published)
    own = [generate(*pair, TextPrompt(one, text, 2), 7, SAMPLING) for text in (empty, other)]
    assert not equal(*own)


def test_kept_scales_and_masks_force_the_start_tokens(pair):
    model, tokenizer = pair
    start = tokenizer.encode(torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0)))
    prompt = TextPrompt(tiny.texts([5]), tiny.texts([2], 1))
    mask = torch.zeros(1, 4, 4)
    mask[:, :, 2:] = 1
    edited = generate(model, tokenizer, prompt, 3, SAMPLING, start=start.with_mask(mask))
    assert torch.equal(edited.ids[3][:, :, :2], start.ids[3][:, :, :2])
    assert not torch.equal(edited.ids[3][:, :, 2:], start.ids[3][:, :, 2:])
    varied = generate(model, tokenizer, prompt, 3, SAMPLING, start=start, keep_scales=2)
    assert all(torch.equal(varied.ids[s], start.ids[s]) for s in range(2))


def test_cached_scales_equal_the_parallel_pass(pair):
    """Greedy generation, then teacher forcing on its own tokens: the same logits everywhere."""
    model, tokenizer = pair
    prompt = TextPrompt(tiny.texts([5]), tiny.texts([2], 1))
    tokens = generate(model, tokenizer, prompt, 0, ScaleSampling(0.0, 1, 0.0))
    with torch.inference_mode():
        inputs = tokenizer.quantize.transformer_inputs(list(tokens.ids))
        logits = model(prompt.rows(12, False, CPU, FP32), inputs)
    drawn = torch.cat([ids.flatten(1) for ids in tokens.ids], 1)
    assert torch.equal(logits.argmax(-1), drawn)


@pytest.mark.parametrize("mode", ["new", "1024"])
def test_placed_maps_do_not_depend_on_the_batch(mode):
    model, tokenizer = tiny.refined_star_model(), tiny.tokenizer()
    sampling = ScaleSampling(2.0, 20, 0.9, mode=mode)
    texts, negative = tiny.texts([3, 9]), tiny.texts([2], 1)
    batch = generate(model, tokenizer, TextPrompt(texts, negative), 7, sampling)
    for i in range(2):
        prompt = TextPrompt(shortened(row(texts, i)), negative)
        assert equal(batch, generate(model, tokenizer, prompt, 7 + i, sampling), i)
    plain = generate(model, tokenizer, TextPrompt(texts, negative), 7, SAMPLING)
    assert all(torch.equal(batch.ids[s], plain.ids[s]) for s in range(2))
    assert not torch.equal(batch.ids[3], plain.ids[3])


def test_bad_input_is_named(pair):
    model, tokenizer = pair
    prompt = TextPrompt(tiny.texts([5]), tiny.texts([2], 1))
    for mode in ("new", "1024"):
        with pytest.raises(ValueError, match=f"{mode}.*needs STAR's refiner.*'plain'"):
            generate(model, tokenizer, prompt, 0, ScaleSampling(mode=mode))
    with pytest.raises(ValueError, match="from a text, not from a class.*Connect"):
        generate(model, tokenizer, ClassPrompt([1]), 0, SAMPLING)
    with pytest.raises(ValueError, match="from a class, not from a text.*Disconnect"):
        generate(tiny.transformer(), tokenizer, prompt, 0, SAMPLING)
    with pytest.raises(ValueError, match=r"width 7 \(pooled 7\), this model needs 12"):
        wide = tiny.texts([5], width=7)
        generate(model, tokenizer, TextPrompt(wide, wide), 0, SAMPLING)
    with pytest.raises(ValueError, match="mode must be one of plain, old, new, 1024"):
        ScaleSampling(mode="best")


# Files


def test_snapshot_and_safetensors_are_the_same_model(tmp_path):
    tensors = tiny.star_tensors()
    files = [
        tiny.write(tmp_path / "star.safetensors", tensors, tiny.STAR_CONFIG),
        tiny.write_snapshot(tmp_path / "star.pth", tensors, tiny.STAR_CONFIG),
    ]
    checkpoints = [read_checkpoint(path) for path in files]
    matches = [identify(checkpoint, "scale model") for checkpoint in checkpoints]
    assert matches[0].architecture.name == "STAR transformer"
    assert matches[0].params == matches[1].params == tiny.star_params()
    assert all(
        torch.equal(checkpoints[0].tensors[name], tensor) and torch.equal(tensors[name], tensor)
        for name, tensor in checkpoints[1].tensors.items()
    )


def test_publishing_star_is_the_inverse_of_reading_it():
    state = tiny.star_model().state_dict()
    published = star.publish(state, tiny.star_params())
    again = star.ARCHITECTURES[1].state_dict(published)
    assert sorted(again) == sorted(state)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_a_key_bias_cannot_be_published():
    state = tiny.star_model().state_dict()
    for name in ("blocks.1.attn.qkv.bias", "blocks.0.cross_attn.kv.bias"):
        changed = state | {name: torch.ones_like(state[name])}
        with pytest.raises(ValueError, match=f"key part of {name}"):
            star.publish(changed, tiny.star_params())


def test_publishing_a_text_encoder_is_the_inverse_of_reading_it():
    params = ClipTextParams(depth=2, width=64, heads=1, hidden=32, vocab=50, positions=9)
    state = tiny.randomise(ClipText(params), 0).state_dict()
    published = star.publish_text_encoder(state, params)
    assert "text_model.encoder.layers.0.mlp.fc1.weight" in published
    assert "text_model.embeddings.token_embedding.weight" in published
    assert star.recognise_text_encoder(tiny.checkpoint_of(published, {})) == params
    for prefix in ("text_model.", ""):  # as files have it, and as newer transformers save it
        tensors = {prefix + name.removeprefix("text_model."): t for name, t in published.items()}
        again = star.ARCHITECTURES[0].state_dict(tensors)
        assert sorted(again) == sorted(state)
        assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
