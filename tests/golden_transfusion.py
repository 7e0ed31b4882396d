"""How golden Transfusion cases are run: joint passes and losses, solvers, interleaved streams."""

from __future__ import annotations

import torch
from golden_var import load

from mmgen_core.decoding import flow_stream
from mmgen_core.decoding.flow import midpoint
from mmgen_core.decoding.flow_sequence import Picture, pack, picture_size, whole_sequence
from mmgen_core.decoding.flow_stream import StreamSampling, generate, latents_alone
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
    """Draws per (kind, token grid) group, in the order the groups first appear, where a draw of
    one group is stacked; kinds in turn."""
    tensors = load_noise(case, "joint.call")
    groups: dict[tuple, list] = {}
    for kind in range(len(params.kinds)):
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


def alone_runs(case) -> list[str]:
    return [
        n
        for n in ("modality", "modality_only")
        if any(k.startswith(f"{n}.") for k in case.expected)
    ]


def run_alone(case, model, name: str, monkeypatch) -> dict[str, torch.Tensor]:
    if name == "modality":
        x, times = case.inputs["modality.noised"], case.inputs["modality.times"]
        return {"modality.flow": latents_alone(model, 0, times, x)}
    noise = case.inputs["modality_only.ode0.noise"]
    steps = case.spec["config"]["modality_steps"]
    record = Recorder(torch.linspace(0, 1, steps), noise)

    def velocity(time, x, last):
        return latents_alone(model, 0, time.expand(len(x)), x)

    final = midpoint(record.watch(velocity), noise, record.times, record.on_step)
    return {"modality_only.final": final, **record.tensors("modality_only.ode0")}


class Recorder:
    """Evaluations and states of one solve."""

    def __init__(self, times: torch.Tensor, noise: torch.Tensor):
        self.times, self.states, self.seen = times, [noise], []

    def watch(self, velocity):
        def watched(time, x, last):
            flow = velocity(time, x, last)
            self.seen.append((time, flow))
            return flow

        return watched

    def on_step(self, step, total, x):
        self.states.append(x)

    def tensors(self, name: str, shape=lambda x: x) -> dict[str, torch.Tensor]:
        results = {f"{name}.times": self.times}
        results[f"{name}.trajectory"] = torch.stack([shape(x) for x in self.states])
        for i, (time, flow) in enumerate(self.seen):
            results[f"{name}.eval{i}.t"] = time
            results[f"{name}.eval{i}.velocity"] = shape(flow)
        return results


def recorded(context) -> list[Recorder]:
    """Every solve of a stream, recorded from now on."""
    records = []

    def watched(velocity, noise, times, on_step):
        records.append(Recorder(times, noise))
        record = records[-1]
        return midpoint(record.watch(velocity), noise, times, record.on_step)

    context.setattr(flow_stream, "midpoint", watched)
    return records


def stream_results(stem: str, parts) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.part{i}.{f'modality{p.kind}' if isinstance(p, Picture) else 'text'}": (
            p.latents if isinstance(p, Picture) else p
        )
        for i, p in enumerate(parts)
    }


def run_many(case, model, monkeypatch) -> dict[str, torch.Tensor]:
    config = case.spec["config"]
    sampling = StreamSampling(
        steps=config["modality_steps"],
        guidance=config["cfg_scale"],
        temperature=0,
        max_tokens=config["max_length"],
        shape=tuple(config["fixed_modality_shape"]),
    )
    results, solves = {}, []
    for i, prompt in enumerate(samples_of(case, "prompt")):
        noise = [stream_noise(case, model)] * 64
        with monkeypatch.context() as context:
            records = recorded(context)
            parts = generate(model, prompt, 0, sampling, "cpu", noise=noise)
        results |= stream_results(f"sample{i}", parts)
        solves.append(records)
    return {**results, **joint_solves(solves)}


def stream_noise(case, model) -> torch.Tensor:
    shape = tuple(case.spec["config"]["fixed_modality_shape"])
    size = picture_size(model.params, 0, shape)
    return case.inputs["init_noise"].view(*shape, -1).reshape(size)


def joint_solves(solves: list[list[Recorder]]) -> dict[str, torch.Tensor]:
    """The reference solves the pictures of all streams that wait for one together: the k-th of
    each, padded to the largest."""
    results, rounds = {}, max(map(len, solves), default=0)
    for k in range(rounds):
        together = [records[k] for records in solves if len(records) > k]
        tensors = [record.tensors(f"many.ode{k}", flat_tokens) for record in together]
        for name in tensors[0]:
            parts = [t[name] for t in tensors]
            if name.endswith((".t", ".times")):
                results[name] = parts[0]
            else:
                results[name] = torch.cat(parts, dim=-3)
    return results


def flat_tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1, -2)


def sample_runs(case) -> list[str]:
    names = {n.rsplit(".part", 1)[0] for n in case.expected if n.startswith("sample.")}
    return sorted(n for n in names if ".ode" not in n)


def run_sample(case, model, name: str, monkeypatch) -> dict[str, torch.Tensor]:
    """sample.cfg3.kv and the like: a prompt, then a picture of a forced size. With and without
    the reference's cache is the same here."""
    config = case.spec["config"]
    shape = tuple(config["sample_shape"])
    guidance = float(name.split(".")[1].removeprefix("cfg"))
    sampling = StreamSampling(config["modality_steps"], guidance, 0, max_tokens=0)
    start = torch.tensor([*model.params.shape_ids(shape), model.params.som(0)])
    noise = case.inputs["sample.init_noise"][: shape[0] * shape[1]].view(*shape, -1)
    with monkeypatch.context() as context:
        records = recorded(context)
        prompt = [case.inputs["sample.prompt"], start]
        parts = generate(model, prompt, 0, sampling, "cpu", noise=[noise])
    results = stream_results(name, parts)
    return {**results, **records[0].tensors(f"{name}.ode0", lambda x: x[0])}
