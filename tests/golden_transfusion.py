"""How golden Transfusion cases are run: joint passes and losses, solvers, interleaved streams."""

from __future__ import annotations

import torch
from golden_var import load

from mmgen_core.decoding.flow_sequence import Picture, pack, whole_sequence
from mmgen_core.models.decoder import Segment
from mmgen_core.training.transfusion import flow_losses, text_loss

# Patterns of expected tensors that are not compared, with the reason.
LEFT_OUT: dict[str, str] = {}


def tolerance(case, name: str) -> tuple[float, float]:
    t = case.spec["tolerance"]
    return t["atol"], t["rtol"]


def run(case, monkeypatch) -> dict[str, torch.Tensor]:
    model = load(case, "weights.safetensors", case.spec["config"])
    if "cond_ids" in case.inputs:
        from golden_paper_transfusion import run_paper

        return run_paper(case, model)
    from golden_transfusion_runs import alone_runs, run_alone, run_many, run_sample, sample_runs

    results = {}
    with torch.inference_mode():
        if "joint.times" in case.inputs:
            results |= run_joint(case, model)
        if "text.ids" in case.inputs:
            results |= run_text(case, model)
        for name in alone_runs(case):
            results |= run_alone(case, model, name, monkeypatch)
        if any(name.startswith("prompt") for name in case.inputs):
            results |= run_many(case, model, monkeypatch)
        for name in sample_runs(case):
            results |= run_sample(case, model, name, monkeypatch)
    return results


def parts_of(case, stem: str) -> list:
    """The recorded parts of a sample, in order: ids, or latents with the kind in their name."""
    found = {}
    for name, value in {**case.inputs, **case.expected}.items():
        if name.startswith(f"{stem}.part"):
            number, what = name[len(stem) + 5 :].split(".")
            kind = int(what.removeprefix("modality")) if what.startswith("modality") else None
            found[int(number)] = value if kind is None else Picture(value, kind)
    return [found[i] for i in sorted(found)]


def samples_of(case, stem: str) -> list[list]:
    numbers = {
        int(name[len(stem) :].split(".")[0])
        for name in case.inputs
        if name.startswith(stem) and ".part" in name
    }
    return [parts_of(case, f"{stem}{i}") for i in sorted(numbers)]


def padded(rows: list[torch.Tensor], counts: list[int], length: int) -> torch.Tensor:
    return torch.stack(list(rows.split(length)))


def run_joint(case, model) -> dict[str, torch.Tensor]:
    """Reference batches are padded with tokens of id 0, so ours get them too."""
    params = model.params
    samples = samples_of(case, "joint.sample")
    times = case.inputs["joint.times"]
    noises = recorded_noise(case, params, samples)
    noised, targets = [], []
    for row, sample in enumerate(samples):
        sequence, column = [], 0
        for part in sample:
            if isinstance(part, Picture):
                t = float(times[row, column])
                noise = noises.pop((row, column))
                targets.append((part.kind, part.latents - noise))
                mixed = t * part.latents + (1 - t) * noise
                part, column = Picture(mixed, part.kind, t), column + 1
            sequence.append(part)
        noised.append(whole_sequence(params, sequence))
    whole = pack(model, noised, "cpu")
    longest = max(whole.counts)
    # The last token is not fed; a shorter sample gets padding in its place.
    for i, (sequence, count) in enumerate(zip(noised, whole.counts, strict=True)):
        fill = torch.zeros(longest - count, dtype=torch.int64)
        sequence[-1] = torch.cat([sequence[-1], fill])[: len(sequence[-1]) + longest - count - 1]
        noised[i] = [part for part in sequence if isinstance(part, Picture) or len(part)]
    packed = pack(model, noised, "cpu")
    n, B = longest - 1, len(samples)
    states = {}
    hooks = []
    for i, layer in enumerate(model.layers):
        hook = lambda m, args, out, i=i: states.update({i: args[0]})  # noqa: E731
        hooks.append(layer.mix.register_forward_hook(hook))
    hidden = model(packed.x_NC, packed.segments([None] * B), packed.positions_N, packed.times)
    for hook in hooks:
        hook.remove()
    every = [*states[len(model.layers) - 1], hidden]
    results = {f"joint.hidden{i}": padded(x, packed.counts, n) for i, x in enumerate(every)}
    logits = model.scores(hidden)
    picture = torch.zeros(B, n, dtype=torch.bool)
    time_of = torch.zeros(B, n)
    seen = torch.stack(
        [
            a if isinstance(a, torch.Tensor) else torch.ones(n, n, dtype=torch.bool).tril()
            for a in packed.attends
        ]
    )
    most = max(len(spans) for spans in packed.spans)
    places = torch.zeros(B, most, 3, dtype=torch.int64)
    flows, column = {}, 0
    for row, spans in enumerate(packed.spans):
        for i, span in enumerate(spans):
            picture[row, span.start : span.stop] = True
            time_of[row, span.start : span.stop] = times[row, i]
            places[row, i] = torch.tensor([span.kind, span.start, span.length])
            part = hidden[row * n + span.start : row * n + span.stop]
            flow = model.flow(part.view(1, *span.grid, -1), span.kind)[0]
            flows.setdefault(span.kind, []).append((flow, targets[column][1]))
            column += 1
    angles = packed.positions_N[:, None] * model.rotary_frequencies
    results |= {
        "joint.embed": padded(hidden, packed.counts, n),
        "joint.text_logits": padded(logits, packed.counts, n),
        "joint.transformer_tokens": padded(packed.x_NC, packed.counts, n),
        "joint.transformer_times": time_of,
        "joint.allowed": seen,
        "joint.is_any_modality": picture,
        "joint.modality_positions": places,
        "joint.rotary_freqs": padded(angles.repeat_interleave(2, -1), packed.counts, n)[:, None],
    }
    for kind, pairs in flows.items():
        first = params.kinds[kind].channels_first
        for name, at in (("pred", 0), ("target", 1)):
            flat = [p[at].flatten(1) if first else p[at].flatten(0, -2) for p in pairs]
            results[f"joint.{name}_flow{kind}"] = torch.cat(flat, 1 if first else 0)
    losses = flow_losses(model, samples, times, noise_of(case, params, samples))
    results |= {
        "joint.loss_text": losses.text,
        "joint.loss_total": losses.total,
        **{f"joint.loss_flow{kind}": loss for kind, loss in losses.flows.items()},
    }
    return results


def noise_of(case, params, samples) -> list[list[torch.Tensor]]:
    found = recorded_noise(case, params, samples)
    return [
        [found[row, i] for i in range(sum(isinstance(p, Picture) for p in sample))]
        for row, sample in enumerate(samples)
    ]


def recorded_noise(case, params, samples) -> dict[tuple[int, int], torch.Tensor]:
    """Draws per group of pictures of one kind and shape, stacked where a group has several; kinds
    in the order they first appear, and so the shapes of a kind."""
    tensors = load_noise(case, "joint.call")
    groups: dict[tuple, list] = {}
    appearing = [p.kind for sample in samples for p in sample if isinstance(p, Picture)]
    for kind in dict.fromkeys(appearing):
        for row, sample in enumerate(samples):
            pictures = [part for part in sample if isinstance(part, Picture)]
            for i, part in enumerate(pictures):
                if part.kind == kind:
                    groups.setdefault((kind, tuple(part.latents.shape)), []).append((row, i))
    found = {}
    for draw, members in zip(tensors, groups.values(), strict=True):
        stacked = draw if len(members) > 1 else draw[None]
        found |= dict(zip(members, stacked, strict=True))
    return found


def load_noise(case, stem: str) -> list[torch.Tensor]:
    names = sorted(n for n in case.noise if n.startswith(stem))
    return [case.noise[n] for n in sorted(names, key=lambda n: int(n[len(stem) :]))]


def run_text(case, model) -> dict[str, torch.Tensor]:
    ids = case.inputs["text.ids"]
    B, n = ids.shape
    x = model.embed_ids(ids).flatten(0, 1)
    positions = torch.arange(n).repeat(B)
    hidden = model(x, [Segment(None, n, rows=B)], positions)
    results = {"text.logits": model.scores(hidden).view(B, n, -1)}
    results["text.loss"] = text_loss(model, ids)
    if "text.greedy" in case.expected:
        results["text.greedy"] = greedy_continuation(model, ids, case.expected["text.greedy"])
    return results


def greedy_continuation(model, ids: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Greedy text after a prefix of the ids. How long the recorded prompt was is not said, so
    the first prefix that leads to the recorded text is taken."""
    found = expected.new_full(expected.shape, -1)
    for length in range(1, ids.shape[1] + 1):
        found = torch.stack([greedy(model, row[:length], expected.shape[1]) for row in ids])
        if torch.equal(found, expected):
            break
    return found


def greedy(model, prompt: torch.Tensor, count: int) -> torch.Tensor:
    ids = prompt
    for _ in range(count):
        x, n = model.embed_ids(ids), len(ids)
        logits = model.scores(model(x, [Segment(None, n)], torch.arange(n)))[-1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)])
    return ids[len(prompt) :]
