"""What the next-scale engine promises beyond the golden cases."""

from __future__ import annotations

import pytest
import tiny
import torch

from mmgen_core.conditioners.scale_prompt import ClassPrompt
from mmgen_core.decoding.forced_tokens import keep_map
from mmgen_core.decoding.next_scale import ScaleSampling, generate, memory_required
from mmgen_core.decoding.sampling import draw, filter_logits

SAMPLING = ScaleSampling(guidance=2.0, top_k=20, top_p=0.9)


@pytest.fixture(scope="module")
def pair():
    return tiny.transformer(), tiny.tokenizer()


def equal(a, b, row_a=0, row_b=0) -> bool:
    return all(torch.equal(x[row_a], y[row_b]) for x, y in zip(a.ids, b.ids, strict=True))


@pytest.mark.parametrize("smooth", [False, True])
def test_same_seed_same_picture_in_every_batch_position(pair, smooth):
    sampling = ScaleSampling(2.0, 20, 0.9, smooth)
    batch = generate(*pair, ClassPrompt([1, 4, -1]), 7, sampling)
    for row, class_id in enumerate([1, 4, -1]):
        single = generate(*pair, ClassPrompt([class_id]), 7 + row, sampling)
        assert equal(batch, single, row)
        if smooth:
            torch.testing.assert_close(batch.features[row], single.features[0])


def test_seed_and_class_matter(pair):
    base = generate(*pair, ClassPrompt([1]), 7, SAMPLING)
    assert not equal(base, generate(*pair, ClassPrompt([1]), 8, SAMPLING))
    assert not equal(base, generate(*pair, ClassPrompt([2]), 7, SAMPLING))
    assert equal(
        generate(*pair, ClassPrompt([-1]), 7, SAMPLING),
        generate(*pair, ClassPrompt([5]), 7, SAMPLING),
    )


def test_cached_scales_equal_the_parallel_pass(pair):
    """Greedy generation, then teacher forcing on its own tokens: the same logits everywhere."""
    model, tokenizer = pair
    tokens = generate(model, tokenizer, ClassPrompt([3]), 0, ScaleSampling(0.0, 1, 0.0))
    with torch.inference_mode():
        inputs = tokenizer.quantize.transformer_inputs(list(tokens.ids))
        logits = model(torch.tensor([3]), inputs)
    drawn = torch.cat([ids.flatten(1) for ids in tokens.ids], 1)
    assert torch.equal(logits.argmax(-1), drawn)


def test_no_guidance_runs_one_row_per_picture(pair):
    model, tokenizer = pair
    rows = []
    handle = model.head.register_forward_hook(lambda m, a, out: rows.append(len(out)))
    generate(model, tokenizer, ClassPrompt([1, 2]), 0, ScaleSampling(guidance=0.0))
    generate(model, tokenizer, ClassPrompt([1, 2]), 0, ScaleSampling(guidance=1.0))
    handle.remove()
    assert rows == [2] * 4 + [4] * 4


def test_kept_scales_and_masks_force_the_start_tokens(pair):
    model, tokenizer = pair
    start = tokenizer.encode(torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0)))
    varied = generate(
        model, tokenizer, ClassPrompt([1, 1]), 3, SAMPLING, start=start, keep_scales=2
    )
    for row in range(2):
        assert all(torch.equal(varied.ids[s][row], start.ids[s][0]) for s in range(2))
        assert not torch.equal(varied.ids[3][row], start.ids[3][0])
    mask = torch.zeros(1, 4, 4)
    mask[:, :, 2:] = 1
    edited = generate(model, tokenizer, ClassPrompt([1]), 3, SAMPLING, start=start.with_mask(mask))
    assert torch.equal(edited.ids[0], start.ids[0])
    assert torch.equal(edited.ids[3][:, :, :2], start.ids[3][:, :, :2])
    assert not torch.equal(edited.ids[3][:, :, 2:], start.ids[3][:, :, 2:])


def test_everything_kept_returns_the_start_picture(pair):
    model, tokenizer = pair
    start = tokenizer.encode(torch.rand(2, 16, 16, 3))
    same = generate(model, tokenizer, ClassPrompt([1, 1]), 0, SAMPLING, start=start, keep_scales=4)
    assert all(torch.equal(a, b) for a, b in zip(same.ids, start.ids, strict=True))
    torch.testing.assert_close(tokenizer.decode(same), tokenizer.decode(start))


def test_a_smooth_picture_can_be_started_from(pair):
    """Its ids do not describe it; kept scales come from the code map that it decodes to."""
    model, tokenizer = pair
    smooth = generate(
        model, tokenizer, ClassPrompt([2]), 5, ScaleSampling(2.0, 20, 0.9, smooth=True)
    )
    again = generate(model, tokenizer, ClassPrompt([2]), 9, SAMPLING, start=smooth, keep_scales=4)
    nearest, _ = tokenizer.quantize.encode(smooth.features, smooth.sizes)
    assert all(torch.equal(a, b) for a, b in zip(again.ids, nearest, strict=True))


def test_progress_and_stop(pair):
    steps = []

    class Stop(BaseException):
        pass

    def on_step(done, total, f_hat):
        assert f_hat.shape == (1, 8, 4, 4)
        steps.append((done, total))
        if len(steps) == 3:
            raise Stop

    with pytest.raises(Stop):
        generate(*pair, ClassPrompt([1]), 0, SAMPLING, on_step=on_step)
    assert steps == [(1, 30), (5, 30), (14, 30)]


def test_bad_input_is_named(pair):
    model, tokenizer = pair
    start = tokenizer.encode(torch.rand(1, 16, 16, 3))
    with pytest.raises(ValueError, match=r"Class 9 is unknown.*0\.\.4"):
        generate(model, tokenizer, ClassPrompt([9]), 0, SAMPLING)
    with pytest.raises(ValueError, match="draws 32 codes of 8 channels, the tokenizer has 16"):
        generate(model, tiny.tokenizer(vocab=16), ClassPrompt([1]), 0, SAMPLING)
    other = tiny.tokenizer(seed=5).encode(torch.rand(1, 16, 16, 3))
    with pytest.raises(ValueError, match=rf"{other.codebook}.*{tokenizer.fingerprint}"):
        generate(model, tokenizer, ClassPrompt([1]), 0, SAMPLING, start=other, keep_scales=1)
    with pytest.raises(ValueError, match="unused"):
        generate(model, tokenizer, ClassPrompt([1]), 0, SAMPLING, start=start)
    with pytest.raises(ValueError, match="keep_scales must lie in 0..4, got 5"):
        generate(model, tokenizer, ClassPrompt([1]), 0, SAMPLING, start=start, keep_scales=5)
    with pytest.raises(ValueError, match="needs start tokens"):
        generate(model, tokenizer, ClassPrompt([1]), 0, SAMPLING, keep_scales=1)
    wide = tokenizer.encode(torch.rand(1, 16, 16, 3), scales=(1, 4))
    with pytest.raises(ValueError, match=r"side \[1, 4\], the model draws \[1, 2, 3, 4\]"):
        generate(model, tokenizer, ClassPrompt([1]), 0, SAMPLING, start=wide, keep_scales=1)
    with pytest.raises(ValueError, match="top_p must lie in 0..1; got.*top_p 1.5"):
        ScaleSampling(top_p=1.5)


def test_a_tokenizer_of_the_same_shape_but_other_codes_is_refused():
    tokenizer, other = tiny.tokenizer(), tiny.tokenizer(seed=5)
    config = {**tiny.TRANSFORMER_CONFIG, "codebook": tokenizer.fingerprint}
    model = tiny.module_of(tiny.transformer_tensors(), config)
    generate(model, tokenizer, ClassPrompt([1]), 0, SAMPLING)
    with pytest.raises(ValueError, match=rf"{tokenizer.fingerprint}.*{other.fingerprint}"):
        generate(model, other, ClassPrompt([1]), 0, SAMPLING)


def test_nan_weight_is_named(pair):
    _, tokenizer = pair
    model = tiny.transformer()
    model.blocks[1].ffn.fc2.weight.data[0, 0] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"scale model has NaN.*blocks\.1\.ffn\.fc2\.weight"
    ):
        generate(model, tokenizer, ClassPrompt([1]), 0, SAMPLING)


def test_bf16_runs_and_stays_close():
    """Logits, not draws: rounding may move a draw, never the distribution much."""
    model, tokenizer = tiny.transformer(), tiny.tokenizer()
    tokens = generate(model, tokenizer, ClassPrompt([3]), 0, SAMPLING)
    inputs = tokenizer.quantize.transformer_inputs(list(tokens.ids))
    exact = model(torch.tensor([3]), inputs).softmax(-1)
    half = tiny.transformer().to(torch.bfloat16)
    half.compute_dtype = torch.bfloat16
    assert half(torch.tensor([3]), inputs).softmax(-1).sub(exact).abs().max() < 0.05
    assert generate(half, tokenizer, ClassPrompt([3]), 0, SAMPLING).grid == (4, 4)


def test_filters_keep_what_their_definition_says():
    """Against the definition: ascending sort, cumulative softmax, best always kept."""
    generator = torch.Generator().manual_seed(0)
    for top_k, top_p in [(0, 0.9), (5, 0.0), (7, 0.5), (50, 0.95), (1, 0.0), (0, 0.0), (3, 1.0)]:
        logits = torch.randn(4, 6, 40, generator=generator) * 3
        kept = torch.isfinite(filter_logits(logits, top_k, top_p))
        expected = logits.clone()
        if 0 < top_k < 40:
            expected[expected < expected.topk(top_k).values.amin(-1, keepdim=True)] = -torch.inf
        if top_p > 0:
            order = expected.argsort(-1)
            low = expected.gather(-1, order).softmax(-1).cumsum(-1) <= 1 - top_p
            low[..., -1] = False
            expected[low.gather(-1, order.argsort(-1))] = -torch.inf
        assert torch.equal(kept, torch.isfinite(expected)), (top_k, top_p)


def test_ties_at_the_border_are_all_kept():
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    assert torch.isfinite(filter_logits(logits, 2, 0.0)).tolist() == [[True] * 4 + [False]]
    assert torch.isfinite(filter_logits(logits, 2, 0.99)).tolist() == [[True] * 4 + [False]]


def test_draws_follow_the_distribution():
    """Chi-square over 20,000 draws, 4 degrees of freedom: 18.5 is the 0.1 % point."""
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0, -1.0, 0.5])
    generator = torch.Generator().manual_seed(1)
    race = torch.empty(20000, 6).exponential_(generator=generator)
    uniform = 1 - torch.rand(20000, generator=generator)
    for noise in (race, uniform):
        counts = draw(logits.expand(20000, 6), noise).bincount(minlength=6)
        assert counts[2] == 0
        expected = logits.softmax(-1)[[0, 1, 3, 4, 5]] * 20000
        assert ((counts[[0, 1, 3, 4, 5]] - expected) ** 2 / expected).sum() < 18.5


def test_extreme_uniforms_never_draw_a_forbidden_code():
    logits = torch.tensor([-torch.inf, 0.3, -torch.inf, 0.1, -torch.inf]).expand(2, 5)
    assert draw(logits, torch.tensor([2**-24, 1.0])).tolist() == [1, 3]


def test_keep_map_follows_the_notebook():
    mask = torch.ones(1, 8, 8)
    mask[:, :4] = 0
    assert keep_map(mask, 1, False).all()  # 1x1 always stays
    assert keep_map(mask, 2, False).tolist() == [[[True, True], [False, False]]]
    assert keep_map(None, 4, True).all()
    assert not keep_map(None, 4, False).any()


def test_memory_estimate_covers_the_cache(pair):
    model, _ = pair
    cache = 2 * 2 * 4 * 2 * 30 * 16 * 4  # k and v, layers, rows, heads, tokens, head size, fp32
    assert cache < memory_required(model, 2, True) < cache + 2_000_000
