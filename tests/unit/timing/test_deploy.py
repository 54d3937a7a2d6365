"""bench deploy: every way serves what PEFT computes; bytes, refusals, rows, figure and the code that is printed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bench import cli, models
from bench.commands import deploy as deploy_command
from bench.core.errors import BadInput
from bench.core.spec import TrainBudget
from bench.data.splits import Encoded
from bench.engine.batching import Batches
from bench.timing.deploy import rows, run, saved, summary, ways
from bench.timing.peers.timer import Timer
from tests.support.chat_helpers import messages, save_chatty, write_jsonl
from tests.support.throughput_helpers import Ticks

FP64 = TrainBudget(max_steps=1, eval_steps=1, batch_size=1, n_select=0, precision="fp64")


def adapter(directory: Path, base: Path, *, rank: int, paths: list[str], rslora: bool = False, **more: Any) -> Path:
    """Write an adapter with random weights, as recommend --save does."""
    directory.mkdir()
    model = AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(rank)
    state = {}
    for path in paths:
        n_out, n_in = model.get_submodule(path).weight.shape
        state[f"base_model.model.{path}.lora_A.weight"] = torch.randn(rank, n_in, generator=generator) * 0.3
        state[f"base_model.model.{path}.lora_B.weight"] = torch.randn(n_out, rank, generator=generator) * 0.3
    save_file(state, directory / saved.WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 4.0, "use_rslora": rslora,
        "bias": "none", "target_modules": paths, "base_model_name_or_path": str(base), "inference_mode": True, **more,
    }  # fmt: skip
    (directory / saved.CONFIG).write_text(json.dumps(config))
    trial = {"model_hash": models.locate(str(base)).model_hash, "budget": {"base_precision": "same"}}
    (directory / saved.FACTS).write_text(json.dumps({"trial": trial}))
    return directory


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three adapters that differ in rank, scaling and layers."""
    base = save_chatty(tmp_path / "chatty")
    first, second = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
    return [
        adapter(tmp_path / "one", base, rank=2, paths=[first, second]),
        adapter(tmp_path / "two", base, rank=5, paths=[first]),
        adapter(tmp_path / "three", base, rank=3, paths=[second, "model.layers.1.self_attn.v_proj"], rslora=True),
    ]


def prompts() -> Encoded:
    """Return six random texts whose last two tokens are targets."""
    rng, lengths = np.random.default_rng(0), np.array([7, 4, 12, 5, 9, 3])
    return Encoded(
        ids=rng.integers(20, 400, lengths.sum()).astype(np.int32), type_ids=None,
        offsets=np.concatenate([[0], lengths.cumsum()]), labels=np.zeros(6, np.int64), index=np.arange(6),
        prompt_lengths=lengths - 2,
    )  # fmt: skip


def built(three: list[Path], base_precision: str = "same", *, bottleneck: bool = True) -> tuple[ways.Built, Any]:
    found = saved.read(three)
    loaded = models.load_causal_lm(models.locate(str(three[0].parent / "chatty")), torch.float64, base_precision)
    made = ways.build(found, saved.trials_of(found, FP64), loaded, Timer(now=Ticks()), bottleneck=bottleneck)
    return made, run.requests_of(Batches(prompts(), device=torch.device("cpu")), 6, len(found))


def test_every_way_gives_each_request_the_logits_of_plain_peft(three: list[Path]) -> None:
    """Rank, scaling and layers differ; each prompt goes alone, unpadded, through a PEFT model of its adapter's."""
    made, requests = built(three)
    wanted = []
    for i, k in zip(requests.place_R, requests.adapter_R, strict=True):
        plain = AutoModelForCausalLM.from_pretrained(three[0].parent / "chatty", dtype=torch.float64)
        model = PeftModel.from_pretrained(plain, str(three[k])).eval()
        ids = torch.from_numpy(prompts().ids[prompts().offsets[i] : prompts().offsets[i + 1] - 2]).long()
        with torch.no_grad():
            wanted.append(model(input_ids=ids[None]).logits[0, -1])
    of_lora = [way for way in made.ways if way.kind == rows.LORA]
    assert [way.name for way in of_lora] == ["merged", "unmerged", "swapped", "mixed"]
    for way in of_lora:
        torch.testing.assert_close(way.serve(requests), torch.stack(wanted), rtol=0, atol=1e-7)
        alone = [way.serve(requests.at(np.array([i]))) for i in range(6)]
        torch.testing.assert_close(torch.cat(alone), torch.stack(wanted), rtol=0, atol=1e-7)


def test_ways_are_equal_and_the_adapters_do_something(three: list[Path]) -> None:
    made, requests = built(three)
    found = run.equalities(made.ways, requests)
    assert set(found) == {
        ("no adapter", "base"), ("LoRA", "merged"), ("LoRA", "unmerged"), ("LoRA", "swapped"), ("LoRA", "mixed"),
        ("sequential adapter", "unmerged"), ("sequential adapter", "mixed"),
        ("parallel adapter", "unmerged"), ("parallel adapter", "mixed"),
    }  # fmt: skip
    assert run.unequal(found, "fp64") == []
    assert found["no adapter", "base"].difference > 0.1 * found["LoRA", "mixed"].size
    assert made.refused == {
        ("sequential adapter", "merged"): "does not merge", ("sequential adapter", "swapped"): "PEFT has none",
        ("parallel adapter", "merged"): "does not merge", ("parallel adapter", "swapped"): "PEFT has none",
    }  # fmt: skip
    bad = {("LoRA", "mixed"): run.Equality(difference=0.1, size=3.0)}
    assert run.unequal(bad, "fp32") == ["LoRA, mixed: logits differ by 0.1 from unmerged, largest logit 3"]


def test_bytes_are_those_of_the_weights_each_way_holds(three: list[Path]) -> None:
    made, _ = built(three, bottleneck=False)
    sizes = {way.name: way.weight_bytes for way in made.ways}
    model = AutoModelForCausalLM.from_pretrained(three[0].parent / "chatty", dtype=torch.float64)
    base = sum(8 * p.numel() for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    factors = [sum(t.numel() for t in load_file(one / saved.WEIGHTS).values()) for one in three]
    assert sizes["base"] == base
    assert sizes["merged"] == 3 * base
    assert sizes["unmerged"] == sizes["swapped"]
    added = sizes["swapped"] - base
    assert added in (4 * sum(factors), 8 * sum(factors)), "PEFT holds the factors in float32 or as the base"
    union = sum(16 + 16 for _ in range(2)) + (24 + 16)  # q_proj, v_proj, down_proj: in + out
    assert sizes["mixed"] == base + 8 * 3 * 5 * union, "three adapters of the largest rank on every adapted layer"
    assert [one.n_bytes for one in saved.read(three)] == [(one / saved.WEIGHTS).stat().st_size for one in three]


def test_a_base_in_four_bits_is_served_and_not_merged(three: list[Path]) -> None:
    if find_spec("bitsandbytes") is None:
        pytest.skip("the extra nf4 is not installed")
    for one in three:
        facts = json.loads((one / saved.FACTS).read_text())
        facts["trial"]["budget"]["base_precision"] = "nf4"
        (one / saved.FACTS).write_text(json.dumps(facts))
    made, requests = built(three, "nf4", bottleneck=False)
    assert made.refused == {("LoRA", "merged"): "not into 4 bits"}
    assert made.merge_seconds == (None, None, None)
    assert run.unequal(run.equalities(made.ways, requests), "fp64") == []
    full, _ = built([*three], "nf4", bottleneck=False)
    plain = models.load_causal_lm(models.locate(str(three[0].parent / "chatty")), torch.float64)
    assert full.ways[0].weight_bytes < ways.bytes_of(plain.model)


def test_rows_hold_every_block_and_the_summary_is_their_median(three: list[Path]) -> None:
    made, requests = built(three)
    ticks = Ticks()
    equal = run.equalities(made.ways, requests)
    found = run.measure(
        made, saved.read(three), requests, equal, repeats=3, timer=Timer(now=ticks), tell=lambda _: None
    )
    parts = [(row.part, row.kind, row.way) for row in found]
    assert len([part for part in parts if part[0] == "batch"]) == 3 * len(made.ways)
    assert len([part for part in parts if part[0] == "alone"]) == 3 * len(made.ways)
    assert {part[1:] for part in parts if part[0] == "switch"} == {("LoRA", "swapped")}
    assert [row.adapter for row in found if row.part == "adapter"] == ["one", "two", "three"]
    assert {row.n for row in found if row.part == "alone"} == {6}
    context = rows.Context(
        task="t", model="m", batch_size=6, n_adapters=3, precision="fp64", base_precision="same", clock="wall",
        timing_mode="busy", threads=1, load_share=None, started_at="", git_commit=None, git_dirty=None,
        source_hash="", versions="{}", device="cpu",
    )  # fmt: skip
    lines = {(line.kind, line.way): line for line in summary.lines(rows.to_table(found, context))}
    mixed = lines["LoRA", "mixed"]
    mine = sorted(row.n / row.seconds for row in found if (row.kind, row.way, row.part) == ("LoRA", "mixed", "batch"))
    assert mixed.throughput is not None
    assert mixed.throughput.median == mine[1]
    assert mixed.switch is None
    assert lines["LoRA", "swapped"].switch is not None
    assert lines["sequential adapter", "merged"].refused == "does not merge"
    assert list(lines)[:2] == [("no adapter", "base"), ("LoRA", "merged")]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda one: shutil.rmtree(one), "must hold a readable adapter_config.json"),
        (lambda one: (one / saved.FACTS).unlink(), "must hold a readable lorasweep.json"),
        (lambda one: (one / saved.WEIGHTS).write_bytes(b"x"), "must be a file of safetensors"),
        (
            lambda one: (one / saved.CONFIG).write_text(json.dumps({"peft_type": "IA3", "task_type": "CAUSAL_LM"})),
            "must hold LoRA adapters of a language model, but got IA3",
        ),
        (
            lambda one: (one / saved.FACTS).write_text(json.dumps({"trial": {"model_hash": "x", "budget": {}}})),
            "must have one base model",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(three: list[Path], break_it: Any, words: str) -> None:
    break_it(three[1])
    with pytest.raises(BadInput, match=words):
        saved.read(three)
    with pytest.raises(BadInput, match="must be different directories"):
        saved.read([three[0], three[0]])


def test_tf32_which_not_every_way_multiplies_in_is_refused() -> None:
    resolved: Any = SimpleNamespace(study=SimpleNamespace(budget=replace(FP64, precision="tf32")), located=None)
    with pytest.raises(BadInput, match="every way to serve multiplies in, but got tf32"):
        deploy_command._checked((SimpleNamespace(),), resolved)  # type: ignore[arg-type]


def test_saved_adapters_are_deployed_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    save_chatty(tmp_path / "chatty")
    write_jsonl(tmp_path / "mine.jsonl", *({"messages": messages(f"q {i}", f"answer {i}")} for i in range(40)))
    shared = ["--task", "mine.jsonl", "--model", "chatty", "--batch", "4", "--max-length", "200"]
    steps = ["--steps", "4", "--eval-steps", "4", "--eta-A", "1e-2"]
    for name, more in {"a": ("lora", "2"), "b": ("lora+", "4")}.items():
        ratio = ["--lambda", "4"] if name == "b" else []
        given = [*shared, *steps, *ratio, "--methods", more[0], "--rank", more[1]]
        assert cli.main(["sweep", *given, "--results-dir", name + "-rows"]) == 0
        assert cli.main(["recommend", *given, "--results-dir", name + "-rows", "--save", name]) == 0
    capsys.readouterr()
    more = ["--adapters", "a,b", "--requests", "4", "--repeats", "2", "--clock", "cpu", "--bottleneck"]
    assert cli.main(["deploy", *shared, *more]) == 0
    shown = capsys.readouterr().out
    for words in ("does not merge", 'model.load_adapter("', "vllm serve", "--max-lora-rank 8", "requests/s: 4 at once"):
        assert words in shown
    assert "NOT EQUAL" not in shown
    directory = tmp_path / "results" / "mine-chatty"
    assert (directory / "figures" / "deploy.png").stat().st_size > 10_000
    assert pq.read_schema(directory / rows.FILE).equals(rows.SCHEMA)
    assert {row["n_adapters"] for row in rows.read(directory / rows.FILE).to_pylist()} == {2}
    assert cli.main(["deploy", *shared, "--adapters", "a,chatty"]) == cli.BAD_INPUT
    assert "must hold a readable adapter_config.json" in capsys.readouterr().err
    assert cli.main(["deploy", *shared]) == cli.BAD_INPUT
    assert "must name directories of saved adapters" in capsys.readouterr().err
