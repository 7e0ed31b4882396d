"""How golden Unified-IO cases are run: the file format, pictures in and out, the model with all
its runs and its image tokenizer."""

from __future__ import annotations

import math

import torch
from golden_next_token import SpiedSampling, SpiedStream, codes_image, note

from mmgen_core.checkpoints import Checkpoint, read_checkpoint
from mmgen_core.checkpoints.architecture import build
from mmgen_core.decoding.encoder_prefix import read_prompts
from mmgen_core.decoding.next_token import PicturePlan, draw_pictures
from mmgen_core.models.decoder import Segment
from mmgen_core.models.unified_io import Prompt
from mmgen_core.systems import identify
from mmgen_core.tokenizers.unified_io_pictures import (
    IMAGENET,
    clear_region,
    fit,
    normalised,
    patch_mask,
    patches,
    place_in_corner,
    undo,
)
from mmgen_core.tokenizers.unified_io_text import place_bins

# Patterns of expected tensors that are not compared, with the reason.
LEFT_OUT: dict[str, str] = {}
MASKED = -1e10  # what the reference writes in place of scores of ids that may not come


def tolerance(case, name: str) -> tuple[float, float]:
    return case.spec["tolerance"]["atol"], case.spec["tolerance"]["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    if "IMAGE_INPUT_SIZE" in config:
        return run_pictures(case)
    if "transformer" in config:
        return Model(case).run()
    return dict(read_checkpoint(case.folder / "weights.bin").tensors)


def load(case, kind: str) -> torch.nn.Module:
    checkpoint = read_checkpoint(case.folder / "weights.safetensors")
    checkpoint = Checkpoint(checkpoint.path, checkpoint.tensors, case.spec["config"])
    return build(identify(checkpoint, kind), checkpoint)


def run_pictures(case) -> dict[str, torch.Tensor]:
    config, inputs, results = case.spec["config"], case.inputs, {}
    side, patch, target_side = (
        config[key] for key in ("IMAGE_INPUT_SIZE", "patch", "IMAGE_TARGET_SIZE")
    )
    grid, target_grid = (side // patch,) * 2, (target_side // patch,) * 2
    for name in sorted({name.split(".")[0] for name in inputs}):
        image = inputs[name].float() / 255
        place = place_in_corner(*image.shape[:2], side)
        framed, inside = fit(image, place)
        if f"{name}.region_xyxy" in inputs:
            inside = clear_region(inside, place, inputs[f"{name}.region_xyxy"])
        framed = normalised(framed, IMAGENET)
        target, seen = fit(image, place_in_corner(*image.shape[:2], target_side))
        found = {
            "image_every8": framed[::8, ::8],
            "row100": framed[100],
            "col60": framed[:, 60],
            "patch_mask": patch_mask(inside, grid, centred=False),
            "target": target * 2 - 1,
            "target_mask": patch_mask(seen, target_grid, centred=False),
        }
        if (drawn := inputs.get(f"{name}.generated")) is not None:
            found["undone"] = undo(drawn, place)
        if (box := inputs.get(f"{name}.box_xyxy")) is not None:
            found["box_extra_ids"] = torch.tensor([bin_ + 100 for bin_ in place_bins(box, place)])
        results |= {f"{name}.{key}": value for key, value in found.items()}
    nothing = normalised(torch.zeros(side, side, 3), IMAGENET)
    results["none.value"] = nothing[0, 0]
    results["none.patch_mask"] = torch.zeros(grid[0] * grid[1], dtype=torch.int64)
    return results


class Model:
    """All runs of one case."""

    def __init__(self, case):
        self.case, self.inputs, self.expected = case, case.inputs, case.expected
        self.model, self.tokenizer = load(case, "next-token model"), load(case, "image tokenizer")
        self.params, self.rows = self.model.params, len(self.inputs["tokens"])
        self.steps = [int(n) for n in note(case, r"image positions \[([\d, ]+)\]").split(",")]
        cut = [patches(image, self.params.patch) for image in self.inputs["image"]]
        self.patches, self.mask = torch.stack(cut), self.inputs["image_mask"].bool()

    @torch.inference_mode()
    def run(self) -> dict[str, torch.Tensor]:
        results = self.encoded() | self.taught() | self.written()
        for name in ("greedy", "sample"):
            rows = [self.drawn(name, row) for row in range(self.rows)]
            results |= {f"{name}.{key}": torch.cat([row[key] for row in rows]) for key in rows[0]}
        return results

    def encoded(self) -> dict[str, torch.Tensor]:
        """The whole batch at once, padding included."""
        ids = self.inputs["tokens"]
        mask = torch.cat([ids > 0, self.mask], dim=1)
        encoded, place = self.model.encode(ids, self.patches, mask)
        place = place.expand(self.rows, -1, -1)
        return {
            "encoder": encoded,
            "encoder_mask": mask,
            "encoder_position_embedding": place,
        }

    def prompt(self, row: int) -> Prompt:
        ids = self.inputs["tokens"][row]
        return Prompt(ids[ids > 0], self.patches[row], self.mask[row])

    def everything(self, scores: torch.Tensor, image: bool) -> torch.Tensor:
        """Scores of the allowed ids among those of all."""
        p = self.params
        whole = scores.new_full((*scores.shape[:-1], p.vocab), MASKED)
        where = slice(p.text_vocab, None) if image else slice(0, p.text_vocab)
        whole[..., where] = scores
        return whole

    def taught(self) -> dict[str, torch.Tensor]:
        """Teacher forcing over the codes of a picture, and the picture back from them."""
        seen, p = {}, self.params
        hook = self.tokenizer.decoder.register_forward_hook(
            lambda m, i, out: seen.update(decoded=out.permute(0, 2, 3, 1).clone())
        )
        tokens = self.tokenizer.encode((self.inputs["target_image"] + 1) / 2)
        self.tokenizer.decode(tokens)
        hook.remove()
        codes = tokens.ids[0].flatten(1)
        target, text, image = self.model.target("image"), [], []
        for row in range(self.rows):
            cache = target.read(self.prompt(row)).fork(1, 1 + codes.shape[1])
            given = torch.tensor([0, p.image_start, *(codes[row, :-1] + p.text_vocab)])
            hidden = target(target.embed_ids(given), [Segment(cache, len(given))])
            text.append(target.scores(hidden[:1], slice(0, 1)))
            image.append(target.scores(hidden[1:])[self.steps])
        return {
            "target.codes": codes,
            "target.decoded": seen["decoded"],
            "target.text_logits": self.everything(torch.stack(text), image=False),
            "target.image_logits_steps": self.everything(torch.stack(image), image=True),
        }

    def drawn(self, name: str, row: int) -> dict[str, torch.Tensor]:
        """A picture by the engine. The reference also draws the text token before it, which
        nothing reads but the picture's score."""
        target, grid = self.model.target("image"), self.params.target_grid
        total, p = math.prod(grid), self.params
        stream = SpiedStream(target, read_prompts(target, [self.prompt(row)]), 1, total)
        plan = PicturePlan.grid(*grid, slice(1, 2), p.text_vocab)
        sampling, noise = SpiedSampling(temperature=0), torch.ones(1, 1 + total, p.vocab)
        if name == "sample":
            top_p = float(note(self.case, r"top_p ([\d.]+)"))
            temperature = float(note(self.case, r"temperature ([\d.]+), PRNG"))
            sampling = SpiedSampling(temperature=temperature, top_p=top_p, filters_first=True)
            noise = (-self.inputs["sample.gumbel"][row : row + 1]).exp()
        first = self.text_scores(row)
        token = sampling.choose(first, noise[:, 0, : p.text_vocab])
        ids = draw_pictures(stream, (1.0,), plan, sampling, noise[:, 1:, p.text_vocab :])
        codes = ids - p.text_vocab
        results = {
            "codes": codes,
            "image": codes_image(self.tokenizer, codes.view(1, *grid)),
            "text_token": token[:, None],
        }
        if name == "greedy":
            steps = torch.stack([stream.seen[i][0] for i in self.steps], dim=1)
            return {**results, "image_logits_steps": self.everything(steps, image=True)}
        chosen = [token, *codes.unbind(1)]
        return {**results, "score": self.score(sampling, chosen)}

    def text_scores(self, row: int) -> torch.Tensor:
        """Scores [1, V] of the text token before a picture."""
        target = self.model.target("image")
        cache = target.read(self.prompt(row)).fork(1, 1)
        hidden = target(target.embed_ids(torch.tensor([0])), [Segment(cache, 1)])
        return target.scores(hidden, slice(0, 1))

    def score(self, sampling, chosen) -> torch.Tensor:
        """Log-probability of what was drawn, among what the filters left."""
        total = torch.zeros(1)
        for logits, ids in zip(sampling.seen, chosen, strict=True):
            left = sampling.filtered(logits) * sampling.temperature
            total += left.log_softmax(-1).gather(1, ids[:, None])[:, 0]
        return total

    def written(self) -> dict[str, torch.Tensor]:
        """Beam search with one beam, which here is greedy and goes on behind the end mark, whose
        places are then not seen; the token after the text is a picture's."""
        length = self.expected["text.beam1_tokens"].shape[1]
        rows = [self.written_row(row, length - 1) for row in range(self.rows)]
        tokens, scores = zip(*rows, strict=True)
        return {"text.beam1_tokens": torch.stack(tokens), "text.beam1_score": torch.stack(scores)}

    def written_row(self, row: int, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
        target, p = self.model.target("image", limit), self.params
        cache = target.read(self.prompt(row)).fork(1, limit + 1)
        ids, total, visible = [0], torch.zeros(()), []
        for i in range(limit + 1):
            image = i == limit
            visible.append(image or 1 not in ids)
            given = torch.tensor([p.image_start if image else ids[-1]])
            seen = torch.tensor([visible])
            hidden = target(target.embed_ids(given), [Segment(cache, 1, attend=seen)])
            scores = target.scores(hidden, slice(1, 2) if image else slice(0, 1))[0]
            best = int(scores.argmax())
            total = total + scores.log_softmax(-1)[best]
            ids.append(best + p.text_vocab * image)
        return torch.tensor(ids[1:]), total
