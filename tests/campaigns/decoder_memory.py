"""The memory that packs of decoders are planned to take, beside what they take: the growth of the resident set.

`python -m tests.campaigns.decoder_memory [--only llama-22m,qv]`. Each measurement is a process of its own: two steps,
the longest batch of 200, an evaluation of 64 examples, and what the model writes after their prompts. The growth counts
from where the base is loaded. Models have random weights; lengths are those of the task made-up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import methods, study
from bench.core.spec import Meaning, TrainBudget, Trial
from bench.engine.chunking import cut
from bench.models import Located
from bench.schedule import planner, workloads

SHAPES: dict[str, dict[str, Any]] = {
    "llama-22m": {
        "model_type": "llama", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 1024, "vocab_size": 32_000, "hidden_act": "silu",
        "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"],
    },
    "llama-5m": {
        "model_type": "llama", "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 48, "intermediate_size": 512, "vocab_size": 8_000, "hidden_act": "silu",
        "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"],
    },
    "llama-deep": {  # keys and values are most of what it takes while it writes
        "model_type": "llama", "hidden_size": 128, "num_hidden_layers": 24, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 256, "vocab_size": 8_000, "hidden_act": "silu",
        "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"],
    },
    "gpt2-8m": {
        "model_type": "gpt2", "n_embd": 256, "n_layer": 6, "n_head": 4, "n_positions": 512, "vocab_size": 8_000,
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
    },
    "opt-8m": {
        "model_type": "opt", "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "ffn_dim": 1024,
        "max_position_embeddings": 512, "vocab_size": 8_000, "word_embed_proj_dim": 256, "dropout": 0.0,
        "architectures": ["OPTForCausalLM"],
    },
}  # fmt: skip
QUERY_VALUE = {"llama": ("q_proj", "v_proj"), "gpt2": ("c_attn",), "opt": ("q_proj", "v_proj")}
N, STEPS, BATCH, MAX_LENGTH = 192, 200, 16, 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A pack, and how it is trained."""

    shape: str
    n_trials: int
    targets: str = "all"
    checkpoints: bool = False
    precision: str = "fp32"
    dropout: float = 0.0
    method: str = "lora"
    path: str = "packed"


def cases() -> list[Case]:
    """Return the matrix: the larger Llama with most crossed, others at sizes that matter."""
    llama = [
        Case(shape="llama-22m", n_trials=k, targets=targets, checkpoints=again)
        for k in (4, 1, 16)
        for targets, again in (("all", False), ("qv", False), ("all", True))
    ]
    half = [Case(shape="llama-22m", n_trials=k, precision="bf16") for k in (4, 1, 16)]
    half += [Case(shape="llama-22m", n_trials=4, precision="bf16", targets="qv", checkpoints=True)]
    dropped = [Case(shape="llama-22m", n_trials=k, dropout=0.1) for k in (4, 1)]
    others = [Case(shape="llama-5m", n_trials=k, targets=t) for k, t in ((4, "all"), (16, "all"), (16, "qv"))]
    others += [Case(shape="gpt2-8m", n_trials=k, targets=t) for k, t in ((4, "all"), (16, "qv"))]
    full = [Case(shape=shape, n_trials=1, method="full") for shape in ("llama-22m", "gpt2-8m")]
    bank = [Case(shape="llama-22m", n_trials=k, targets=t, path="bank") for k, t in ((1, "all"), (4, "all"), (4, "qv"))]
    bank += [
        Case(shape="gpt2-8m", n_trials=4, path="bank"), Case(shape="llama-22m", n_trials=1, method="full", path="bank")
    ]  # fmt: skip
    opt = [Case(shape="opt-8m", n_trials=k) for k in (4, 16)]
    deep = [Case(shape="llama-deep", n_trials=4, targets="qv")]
    return [*llama, *half, *dropped, *others, *opt, *full, *bank, *deep]


def measure(case: Case) -> dict[str, Any]:
    """Return bytes: planned, once the pack is built, after two steps, the longest batch, an evaluation, and writing."""
    import numpy as np
    import torch

    from bench.core.clock import Clock
    from bench.core.spec import Pack
    from bench.engine.batching import Batches
    from bench.engine.loop import Loop
    from bench.engine.memory import CpuMeter, give_back, settle_base
    from bench.engine.run import DTYPES, EngineOptions, prepare, settle_process
    from bench.timing.peers import made_up
    from bench.timing.peers.model import random_model

    settle_process()
    torch.set_num_threads(1)
    cpu, config, trials = torch.device("cpu"), SHAPES[case.shape], trials_of(case)
    budget, data = trials[0].budget, made_up.data_of(N, config["vocab_size"])
    lengths = data.train.lengths
    loaded = random_model(config, 0)
    loaded.model.to(DTYPES[budget.precision])
    settle_base(loaded.model, cpu, is_shared=not methods.get(case.method).trains_base)
    meter = CpuMeter()
    meter.start()
    options = EngineOptions(device=cpu, gradient_checkpointing=case.checkpoints, path=case.path)  # type: ignore[arg-type]
    ready = prepare(Pack(trials=trials), data, loaded, options)
    found = {"planned": planned_bytes(case, lengths), "built": meter.peak()}
    loop = Loop(
        ready.bank, ready.path, ready.train, budget, n_chunks=ready.n_chunks, clock=Clock(),
        evaluate=lambda: np.zeros(case.n_trials), objective=ready.objective,
    )  # fmt: skip
    batches = list(ready.train.order(seed=0, batch_size=BATCH, max_steps=STEPS))
    for places in batches[:2]:
        loop.step(places)
    found["usual"] = meter.peak()
    longest = max(batches, key=lambda places: largest_chunk(lengths[places], ready))
    loop.step(longest)
    found["longest"] = meter.peak()
    give_back()  # as run_pack does
    split = Batches(data.train if case.n_trials == 1 else data.eval, device=cpu)  # enough for a whole chunk
    ready.objective.read(ready.path, split, n_trials=case.n_trials)  # type: ignore[attr-defined]
    found["evaluated"] = meter.peak()
    give_back()
    ready.objective.write(split, made_up.MAX_NEW_TOKENS)  # type: ignore[attr-defined]
    more = {"tokens": int(lengths[longest].sum()), "chunks": ready.n_chunks, "path": ready.path.name}
    return {**found, "written": meter.peak(), **more}


def largest_chunk(lengths: Any, ready: Any) -> int:
    """Return the most tokens that a chunk of a batch comes to, padding included."""
    import numpy as np

    known = np.sort(lengths)
    parts = [part for part in np.split(known, cut(known, ready.n_chunks)) if len(part)]
    return max(int(part.max()) * len(part) if ready.path.name == "bank" else int(part.sum()) for part in parts)


def trials_of(case: Case) -> tuple[Trial, ...]:
    """Return the trials of a pack."""
    budget = TrainBudget(
        max_steps=STEPS, eval_steps=STEPS, batch_size=BATCH, max_length=MAX_LENGTH, n_select=0,
        precision=case.precision,  # type: ignore[arg-type]
    )  # fmt: skip
    named = QUERY_VALUE[SHAPES[case.shape]["model_type"]] if case.targets == "qv" else "all-linear"
    shared = {
        "task": "made-up", "model": case.shape, "data_hash": "", "model_hash": "", "budget": budget,
        "meaning": Meaning(metric_name="exact_match"),
    }  # fmt: skip
    cell = {"seed": 0}
    if not methods.get(case.method).trains_base:
        cell |= {"rank": 8, "lora_dropout": case.dropout, "target_modules": named}
    return tuple(
        study.make_trial(case.method, {**cell, "eta_A": 1e-5 * (1 + k)}, shared=shared, default_targets="all-linear")
        for k in range(case.n_trials)
    )


def planned_bytes(case: Case, lengths: Any) -> float:
    """Return what the planner reckons with for a pack."""
    nowhere = Path("/nowhere")
    located = Located(name=case.shape, directory=nowhere, model_hash="", tokenizer_hash="", config=SHAPES[case.shape])
    shape = workloads.limits_of("cpu", located, float(lengths.mean()), lengths.tolist()).shape
    assert shape is not None
    assert shape.decoder is not None
    shape = replace(shape, decoder=replace(shape.decoder, is_packed=case.path == "packed"))
    return planner.decoder_bytes(trials_of(case)[0], shape, case.n_trials, on_cpu=True, checkpointed=case.checkpoints)


def row_of(case: Case, found: Mapping[str, Any]) -> str:
    """Return a line of the table: MB, and what was planned over what was taken."""
    ways = [case.method, case.path, case.precision, "again" if case.checkpoints else "kept", f"dropout {case.dropout}"]
    names = ("planned", "built", "usual", "longest", "evaluated", "written")
    taken = found["written"]
    cells = [case.shape, case.n_trials, case.targets, *ways, *(round(found[name] / 1e6) for name in names)]
    return f"| {' | '.join(map(str, cells))} | {found['planned'] / taken:.2f} |"


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="words that a case must have: llama-22m, K=4, qv, bf16, again, kept")
    parser.add_argument("--rows", default="", help="file to which measurements are added as lines of JSON")
    parser.add_argument("--case")
    given = parser.parse_args()
    if given.case:
        print(json.dumps(given_case(given.case)))
        return
    wanted = set(filter(None, given.only.split(",")))
    for case in cases():
        words = {case.shape, case.targets, f"K={case.n_trials}", case.precision, case.method, case.path}
        if not wanted <= words | {"again" if case.checkpoints else "kept"}:
            continue
        done = subprocess.run(
            [sys.executable, "-m", "tests.campaigns.decoder_memory", "--case", json.dumps(asdict(case))],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
        print(row_of(case, found), flush=True)
        if given.rows:
            with Path(given.rows).open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")


def given_case(text: str) -> dict[str, Any]:
    """Return the case with what was measured."""
    case = Case(**{name: value for name, value in json.loads(text).items() if name != "live"})
    return asdict(case) | measure(case)


if __name__ == "__main__":
    main()
