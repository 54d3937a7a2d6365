"""What a base in 4 bits costs SmolLM2: packs of 1, 4 and 16 beside PEFT on bitsandbytes' layers; CPU seconds, memory.

`python -m tests.campaigns.nf4_cost [--rounds 2] [--steps 2]`. Each measurement is a process of its own, so that its
peak of resident memory is its own; rounds are interleaved. LoRA of rank 8 on all linear layers, batches of 2 chats.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

from bench.timing.peers.interleave import interleaved

CASES = ("peft", "1", "4", "16")
BATCH, RANK = 2, 8


def measure(case: str, steps: int) -> dict[str, float]:
    """Return CPU seconds of a step of one trial, and the process's peak bytes, of one case in this process."""
    from bench import models, study, tasks
    from bench.core.spec import TrainBudget
    from bench.executors import runtime

    task, located = tasks.get("chat-demo"), models.locate("smollm2")
    budget = TrainBudget(
        max_steps=steps + 1, eval_steps=steps + 1, batch_size=BATCH, max_length=128, n_select=0, precision="fp32",
        base_precision="nf4",
    )  # fmt: skip
    shared = {"task": task.name, "model": "smollm2", "data_hash": "", "model_hash": "", "budget": budget}
    cells = [{"seed": 0, "eta_A": 1e-5 * (1 + k), "rank": RANK} for k in range(1 if case == "peft" else int(case))]
    trials = [study.make_trial("lora", cell, shared=shared, default_targets="all-linear") for cell in cells]
    data: Any = tasks.load(task, None)
    if case == "peft":
        return _peft(trials[0], data, located, steps)
    encoded, loaded = runtime.load_for(trials[0], task=task, data=data, located=located)
    return _ours(trials, encoded, loaded, steps)


def _ours(trials: list[Any], data: Any, loaded: Any, steps: int) -> dict[str, float]:
    import numpy as np
    import torch

    from bench.core.clock import Clock
    from bench.core.spec import Pack
    from bench.engine.loop import Loop
    from bench.engine.run import EngineOptions, prepare

    ready = prepare(Pack(trials=tuple(trials)), data, loaded, EngineOptions(device=torch.device("cpu")))
    loop = Loop(
        ready.bank, ready.path, ready.train, trials[0].budget, n_chunks=ready.n_chunks, clock=Clock(),
        evaluate=lambda: np.zeros(len(trials)), objective=ready.objective,
    )  # fmt: skip
    batches = list(ready.train.order(seed=0, batch_size=BATCH, max_steps=steps + 1))
    loop.step(batches[0])
    return _timed([lambda at=at: loop.step(at) for at in batches[1:]], len(trials))  # type: ignore[misc]


def _peft(trial: Any, data: Any, located: Any, steps: int) -> dict[str, float]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from bench import tasks
    from bench.data import causal
    from bench.engine.batching import Batches
    from tests.support.causal_helpers import batch_of

    layout = tasks.get("chat-demo").causal
    assert layout is not None
    split = causal.encode(data, located, layout, metric="eval_loss", max_length=128, n_select=0).train
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        located.directory, quantization_config=four_bits, dtype=torch.float32, device_map="cpu"
    )
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=trial.eta_A)
    order = Batches(split, device=torch.device("cpu")).order(seed=0, batch_size=BATCH, max_steps=steps + 1)

    def step(places: Any) -> None:
        model(**batch_of(split, places)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    first, *batches = order
    step(first)
    return _timed([lambda at=at: step(at) for at in batches], 1)  # type: ignore[misc]


def _timed(steps: list[Any], n_trials: int) -> dict[str, float]:
    start = time.process_time()
    for step in steps:
        step()
    seconds = (time.process_time() - start) / len(steps) / n_trials
    return {"seconds": seconds, "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def main() -> None:
    """Print a table of all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--case", choices=CASES)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.steps)))
        return
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _, case in interleaved(CASES, given.rounds):
        command = [sys.executable, "-m", "tests.campaigns.nf4_cost", "--case", case, "--steps", str(given.steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[case].append(json.loads(done.stdout.splitlines()[-1]))
        print(case, found[case][-1], flush=True)
    print("| | CPU s a step and trial | x PEFT | peak MiB |\n|---|---|---|---|")
    base = median(one["seconds"] for one in found["peft"])
    for case, every in found.items():
        seconds, n_bytes = (median(one[key] for one in every) for key in ("seconds", "bytes"))
        label = "PEFT + bitsandbytes" if case == "peft" else f"pack of {case}"
        print(f"| {label} | {seconds:.2f} | {seconds / base:.2f} | {n_bytes / 2**20:,.0f} |")


if __name__ == "__main__":
    main()
