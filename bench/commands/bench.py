"""bench bench: Trainer + PEFT and this harness side by side on the same work: a table, rows and figures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands._options import Selection, some_options

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.timing.peers.rows import Row
    from bench.timing.peers.setup import Chosen
    from bench.timing.peers.work import Work

SECONDS_AROUND_A_BLOCK = 1.0  # building a contender and taking it down; a ceiling takes as long


@some_options(
    "task",
    "model",
    "max_steps",
    "batch_size",
    "rank",
    "lora_dropout",
    "target_modules",
    "max_length",
    "precision",
    "device",
)
def command(
    selection: Selection,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="rounds of interleaved repeats")] = 5,
    clock: Annotated[str, typer.Option("--clock", help="wall, or cpu: the process's, on a busy CPU")] = "wall",
    only: Annotated[
        str | None, typer.Option("--only", help="parts (train, eval, ...) or contenders (b1g, ours)")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="the model's shapes with random weights, no download")
    ] = False,
) -> int:
    """Compare this harness with Trainer + PEFT and TRL: examples per second, share of matmul ceiling, peak memory."""
    from bench.commands import _throughput
    from bench.timing.peers import jobs, rows, setup

    parts, contenders = jobs.choose(only)
    chosen = setup.read(selection.overrides, random_weights=random_weights, data_dir=selection.data_dir, clock=clock)
    if contenders & set(jobs.PEERS):
        from bench.timing.peers.contenders import _peer

        _peer.require()
        # PEFT's business with transformers, said again in every round
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.* is deprecated", FutureWarning)
    for table in _measured(chosen, parts, contenders, repeats=repeats):
        path = rows.write(selection.results_dir, table)  # after each row: a run that is stopped keeps what it has
    print()
    print(_throughput.text(table))
    print(f"\nrows: {path}")
    for figure in _throughput.draw(table, path.parent / "figures"):
        print(f"figure: {figure}")
    return 0


def _measured(
    chosen: Chosen, parts: frozenset[str], contenders: frozenset[str], *, repeats: int
) -> Iterator[pa.Table]:  # fmt: skip
    """Yield the rows of a run so far, after each."""
    from bench.core import devices
    from bench.timing.load import load_of
    from bench.timing.peers import rows, setup

    load = load_of(devices.resolve(chosen.device))
    if load.busy:
        print(f"warning: the device is busy ({load.words}); these numbers are not to be trusted")
    work = setup.build(chosen)
    context = setup.context_of(work, chosen, load)
    print(_heading(work, context.device, repeats), flush=True)
    found: list[Row] = []
    for row in _rows(work, chosen, parts, contenders, repeats=repeats):
        found.append(row)
        yield rows.to_table(found, context)


def _rows(
    work: Work, chosen: Chosen, parts: frozenset[str], contenders: frozenset[str], *, repeats: int
) -> Iterator[Row]:  # fmt: skip
    from bench.engine import memory
    from bench.engine.run import DTYPES
    from bench.timing.peers import ceiling, jobs, setup, sweeps
    from bench.timing.peers import contenders as registered
    from bench.timing.peers.contenders import _peer

    def tell(line: str) -> None:
        print(f"  {line}", flush=True)

    planned = jobs.plan(work, setup.precisions(chosen.device, chosen.precision), parts, contenders)
    for name in {job.contender for job in planned if job.contender != jobs.MATMUL}:
        _peer.require(registered.get(name).packages)
    timer = setup.timer_of(work.device, chosen.clock)
    config = work.loaded.model.config
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    shapes = ceiling.shapes(config.hidden_size, inner, work.device.type)
    rate = ceiling.matmul_rate(shapes[0], DTYPES["fp32"], work.device, timer, least_seconds=ceiling.LEAST_SECONDS)
    whole = [part for part in sweeps.WHOLE if part in parts and not work.is_causal]
    tell(_forecast(sum(map(jobs.work_flop, planned)) / rate, len(planned), repeats, sweeps=bool(whole)))
    yield from jobs.measure(
        planned, repeats=repeats, shapes=shapes, timer=timer, meter=memory.meter_of(work.device), tell=tell,
        least_seconds=ceiling.LEAST_SECONDS,
    )  # fmt: skip
    if whole:
        cells = sweeps.Cells(device=str(work.device))
        yield from sweeps.measure(cells, sorted(contenders), whole, repeats=repeats, tell=tell)


def _forecast(seconds: float, n_jobs: int, repeats: int, *, sweeps: bool) -> str:
    """Return about how long the run takes; `seconds` is a round's at the full fp32 matmul rate.

    No block reaches that rate; those in bf16 exceed it by about as much.
    """
    from bench.commands import _text

    beside = " and of whole sweeps of the demo" if sweeps else ""
    time = _text.duration(repeats * (seconds + n_jobs * SECONDS_AROUND_A_BLOCK))
    return (
        f"about {time}{' more than the sweeps' if sweeps else ''} for {_text.count(repeats, 'round')} of {n_jobs} "
        f"blocks{beside}; ONLY=, REPEATS= and STEPS= make it shorter"
    )


def _heading(work: Work, device: str, repeats: int) -> str:
    trial, split = work.trial, work.data.train
    return (
        f"{trial.task} on {trial.model}, {device}: {len(split):,} examples of {split.lengths.mean():.1f} tokens in "
        f"{work.steps} steps of {work.batch_size}, LoRA rank {trial.rank} on {trial.target_modules}, dropout "
        f"{trial.lora_dropout}; {repeats} interleaved rounds"
    )
