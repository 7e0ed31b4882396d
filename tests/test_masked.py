"""The masked engine and what is painted with it, against plain recomputation and by its laws."""

from __future__ import annotations

import pytest
import tiny_masked
import torch

from mmgen_core.conditioners.show_o_prompt import (
    codes_to_redraw,
    drawing_ids,
    padded_drawing_ids,
    question_ids,
)
from mmgen_core.decoding.masked import (
    SCHEDULES,
    UNKNOWN,
    MaskedSampling,
    Prompts,
    draw_codes,
    masked_noise,
    masked_share,
    remask,
)
from mmgen_core.decoding.painting import extend, starts, windows_of
from mmgen_core.decoding.picture_question import read_codes_question, read_features_question
from mmgen_core.image_tokens import ImageTokens
from mmgen_core.models.decoder import Segment
from mmgen_core.models.omni_attention import drawing_mask, features_mask, question_mask
from mmgen_core.systems.show_o_runs import (
    Extension,
    Painting,
    canvas_of,
    check_tokenizer,
    extrapolate,
    paint,
    read_extensions,
)

SIDE, N = tiny_masked.SIDE, tiny_masked.SIDE**2
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return tiny_masked.show_o_model()


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_masked.tokenizer()


def painted(model, tokenizer, text=(5, 6), start=None, mask=None, size=None, steps=4, **run):
    sampling = MaskedSampling(steps, run.pop("guidance", 1.75))
    painting = Painting(sampling, **run)
    canvas = canvas_of(model, tokenizer, painting, start, mask, size)
    return paint(model, tokenizer, list(text), canvas, painting, CPU).ids[0]


def test_prompts_read_once_give_what_whole_padded_sequences_give(model):
    """Padding dropped, keys and values kept, no mask, part of the head: nothing changes."""
    p = model.params
    codes = torch.randint(0, p.codes, (2, N))
    codes[0, ::2] = codes[1, 3:] = UNKNOWN
    texts = [drawing_ids(p, [3, 4, 5]), drawing_ids(p, [7])]
    read = Prompts(model, texts, drawing_ids(p, []), N, "cpu")
    rows = [*texts, drawing_ids(p, []), drawing_ids(p, [])]
    whole = [padded_drawing_ids(p, row, codes[i % 2][None])[0] for i, row in enumerate(rows)]
    segments = [Segment(None, len(ids), drawing_mask(ids, p)) for ids in whole]
    hidden = model.decoder(model.decoder.embed_ids(torch.cat(whole)), segments)
    hidden = hidden.view(4, -1, hidden.shape[-1])[:, -N - 1 : -1]
    expected = model.decoder.scores(hidden)[..., p.first_code : p.mask]
    torch.testing.assert_close(read.scores(codes), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read.scores(codes), expected, atol=1e-4, rtol=1e-4)  # not grown


def test_a_question_read_in_parts_gives_what_its_mask_gives(model):
    p = model.params
    ids = question_ids(p, torch.randint(0, p.codes, (N,)), [9, 8, 7])
    mask = question_mask(ids, p)
    hidden = model.decoder(model.decoder.embed_ids(ids), [Segment(None, len(ids), mask)])
    prefix = read_codes_question(model, ids, "cpu")
    torch.testing.assert_close(prefix.hidden_bC[0], hidden[-1], atol=1e-4, rtol=1e-4)


def test_clip_features_are_seen_by_all():
    model = tiny_masked.show_o_model(clip_width=6)
    before, behind = torch.tensor([model.params.mmu, 4, 5, model.params.soi]), torch.tensor([2, 3])
    features = torch.randn(7, 6)
    x = torch.cat(
        [
            model.decoder.embed_ids(before),
            model.projector(features),
            model.decoder.embed_ids(behind),
        ]
    )
    hidden = model.decoder(x, [Segment(None, 13, features_mask(13, 4, 11))])
    prefix = read_features_question(model, before, features, behind, "cpu")
    torch.testing.assert_close(prefix.hidden_bC[0], hidden[-1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="3 channels, this model takes 6"):
        read_features_question(model, before, torch.randn(7, 3), behind, "cpu")


def test_a_batch_row_is_the_single_run_with_its_seed(model, tokenizer):
    pair = painted(model, tokenizer, seed=5, count=3)
    assert torch.equal(pair[1:2], painted(model, tokenizer, seed=6))
    assert torch.equal(pair[2:], painted(model, tokenizer, seed=7))
    assert not torch.equal(pair[0], pair[1])


def test_text_and_guidance_matter(model, tokenizer):
    plain = painted(model, tokenizer, seed=1)
    assert not torch.equal(plain, painted(model, tokenizer, text=(11, 12, 13), seed=1))
    assert not torch.equal(plain, painted(model, tokenizer, seed=1, guidance=0.0))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 12])
def test_every_schedule_settles_every_code(model, tokenizer, schedule, steps):
    seen = []
    prompts = Prompts(model, [drawing_ids(model.params, [4])], None, N, "cpu")
    sampling = MaskedSampling(steps, 0.0, schedule)
    noise = masked_noise([torch.Generator().manual_seed(0)], N, steps)
    start = torch.full((1, N), UNKNOWN)
    codes = draw_codes(prompts, start, sampling, noise, lambda s, n, c: seen.append(c))
    assert int(codes.min()) >= 0 and len(seen) == steps
    unknown = [int((c == UNKNOWN).sum()) for c in seen]
    assert unknown == sorted(unknown, reverse=True) and unknown[-1] == 0


def test_the_cosine_is_rounded_as_in_fp32():
    """At two thirds it lies below one half: 127 of 256 stay masked, not 128."""
    assert MaskedSampling(12).masked_counts(256)[7] == 127
    assert MaskedSampling(30).masked_counts(1024)[19] == 511
    temperatures = MaskedSampling(16).temperatures()
    assert [round(t, 2) for t in temperatures[:4]] == [0.94, 0.82, 0.67, 0.50]
    assert temperatures[-1] == 0
    with pytest.raises(ValueError, match="Unknown schedule"):
        masked_share("sine", torch.tensor(0.5))


def test_fewer_are_masked_again_than_were_unknown():
    unknown = torch.tensor([[True] * 4, [True, True, False, False]])
    sure = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 9.0, 9.0]])
    masking, count = remask(sure, unknown, 10)
    assert count.flatten().tolist() == [3, 1]
    assert masking.sum(1).tolist() == [3, 1]


def test_in_painting_keeps_what_is_known(model, tokenizer):
    codes = torch.randint(0, model.params.codes, (1, SIDE, SIDE))
    start = ImageTokens((codes,), tokenizer.fingerprint)
    mask = torch.zeros(1, 16, 16)
    mask[:, :8, :8] = 1
    for steps in (1, 5, 9):
        drawn = painted(model, tokenizer, start=start, mask=mask, count=2, steps=steps)
        kept = torch.ones(SIDE, SIDE, dtype=torch.bool)
        kept[:2, :2] = False
        assert torch.equal(drawn[:, kept], codes[:, kept].expand(2, -1))
    one = torch.zeros(1, SIDE, SIDE)
    one[0, 1, 1] = 1
    drawn = painted(model, tokenizer, start=start.with_mask(one))
    assert int((drawn != codes).sum()) <= 1
    assert codes_to_redraw(mask, (SIDE, SIDE))[0, :2, :2].all()


def test_pictures_larger_than_the_model_draws(model, tokenizer):
    drawn = painted(model, tokenizer, size=(40, 24))
    assert drawn.shape == (1, 6, 10) and int(drawn.min()) >= 0
    with pytest.raises(ValueError, match="this model draws 4"):
        painted(model, tokenizer, size=(12, 16))


def test_windows_cover_a_canvas():
    unknown = torch.ones(6, 9, dtype=torch.bool)
    covered = torch.zeros_like(unknown)
    for top, left in windows_of(unknown, SIDE):
        covered[top : top + SIDE, left : left + SIDE] = True
    assert covered.all()
    assert starts(4, 4) == [0] and starts(5, 4) == [0, 1] and starts(8, 4) == [0, 2, 4]


@pytest.mark.parametrize("ways", ["right", "down down", "left up right down", "up left down"])
def test_extrapolation_in_any_directions(model, tokenizer, ways):
    """The reference fails on "down", and where directions across and along alternate."""
    codes = torch.randint(0, model.params.codes, (2, SIDE, SIDE))
    start = ImageTokens((codes,), tokenizer.fingerprint)
    steps = [Extension(way, [4, 5]) for way in ways.split()]
    painting = Painting(MaskedSampling(3), seed=2, count=2)
    seen = []
    report = lambda step, total, preview: seen.append((step, total, preview().shape))  # noqa: E731
    grid = extrapolate(model, tokenizer, start, steps, 0, painting, CPU, report).ids[0]
    across, along = (sum(way in pair for way in ways.split()) for pair in ("left right", "up down"))
    assert grid.shape == (2, SIDE + 2 * along, SIDE + 2 * across) and int(grid.min()) >= 0
    left, top = 2 * ways.split().count("left"), 2 * ways.split().count("up")
    assert torch.equal(grid[:, top : top + SIDE, left : left + SIDE], codes)
    assert seen[-1][0] == seen[-1][1] == len(seen)
    single = Painting(MaskedSampling(3), seed=3)
    again = extrapolate(model, tokenizer, start.rows(1, 2), steps, 0, single, CPU)
    assert torch.equal(again.ids[0], grid[1:])


def test_an_offset_sees_less_and_draws_more(model, tokenizer):
    canvas, windows = extend(torch.zeros(1, SIDE, SIDE, dtype=torch.int64), "right", SIDE, 1)
    assert canvas.shape == (1, SIDE, SIDE + 3) and windows == [(0, 3)]
    for offset in (-2, 2):
        with pytest.raises(ValueError, match="offset must lie in -1..1"):
            extend(canvas, "right", SIDE, offset)


def test_steps_are_read_from_lines():
    text = "Right: a green tree\n\n down:a: b \n"
    assert read_extensions(text) == [("right", "a green tree"), ("down", "a: b")]
    with pytest.raises(ValueError, match="Line 2 is 'north: x'"):
        read_extensions("left:\nnorth: x")
    with pytest.raises(ValueError, match="No steps"):
        read_extensions("\n")


def test_bad_input_is_named(model, tokenizer):
    codes = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    start = ImageTokens((codes,), tokenizer.fingerprint)
    with pytest.raises(ValueError, match="at most 14"):
        painted(model, tokenizer, text=range(40))
    with pytest.raises(ValueError, match="Nothing says which part"):
        painted(model, tokenizer, start=start)
    with pytest.raises(ValueError, match="covers no token"):
        painted(model, tokenizer, start=start, mask=torch.zeros(1, 16, 16))
    with pytest.raises(ValueError, match="shapes differ"):
        painted(model, tokenizer, start=start, mask=torch.ones(1, 16, 24))
    with pytest.raises(ValueError, match="needs the tokens"):
        painted(model, tokenizer, mask=torch.ones(1, 16, 16))
    with pytest.raises(ValueError, match="belong to the codebook"):
        painted(model, tokenizer, start=ImageTokens((codes,), "other"), mask=torch.ones(1, 16, 16))
    with pytest.raises(ValueError, match="must lie in 0..31"):
        bad = ImageTokens((codes + 99,), tokenizer.fingerprint)
        painted(model, tokenizer, start=bad, mask=torch.ones(1, 16, 16))
    with pytest.raises(ValueError, match="draws 32 codes"):
        check_tokenizer(model, tiny_masked.tokenizer(bits=6))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        MaskedSampling(0)


def test_a_weight_that_is_no_number_is_named(tokenizer):
    model = tiny_masked.show_o_model()
    model.decoder.norm.weight.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN or infinity in decoder.norm.weight"):
        painted(model, tokenizer)
