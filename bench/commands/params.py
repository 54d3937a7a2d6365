"""bench params: what a method trains of a model, parameter by parameter; from a config alone, without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import methods
from bench.core.errors import BadInput

if TYPE_CHECKING:
    from bench.core.spec import Trial
    from bench.engine.count import Parameters


def command(
    model: Annotated[str, typer.Option("--model", help="registered name, or a directory with config.json")],
    method: Annotated[str, typer.Option("--method", "--methods", help="the method")] = methods.BASELINE,
    rank: Annotated[str | None, typer.Option("--rank", "--ranks", help="rank [default: 8]")] = None,
    target_modules: Annotated[
        str | None, typer.Option("--target-modules", help="suffixes a,b,c; a regular expression; or all-linear")
    ] = None,
    layers_to_transform: Annotated[
        str | None, typer.Option("--layers-to-transform", help="layer numbers from 0")
    ] = None,
    mora_type: Annotated[str | None, typer.Option("--mora-type", "--mora-types", help="1, 2, 3, 4 or 6")] = None,
    mora_rounding: Annotated[str | None, typer.Option("--mora-rounding", help="floor or nearest")] = None,
    n_labels: Annotated[
        int | None,
        typer.Option("--n-labels", help="classes of the task [default: none of a language model, else 2]", min=1),
    ] = None,
    short: Annotated[bool, typer.Option("--short", help="put alike layers into one line")] = False,
) -> int:
    """Print every parameter of the model, whether it is trained, its shape, and the totals."""
    from bench.engine import count
    from bench.models._config import read_config

    given = {
        "rank": rank, "target_modules": target_modules, "layers_to_transform": layers_to_transform,
        "mora_type": mora_type, "mora_rounding": mora_rounding,
    }  # fmt: skip
    name, config = read_config(model, where="--model")
    trial = _trial(method, {key: text for key, text in given.items() if text is not None}, name, config)
    found = count.count(config, trial, n_labels=n_labels)
    as_is = n_labels is None and count.is_language_model(config)
    kind = "a language model, without a classifier" if as_is else f"{n_labels or 2} labels"
    print(f"{name}: {found.architecture}, {kind}; {_settings(trial)}\n")
    print(_table(found, short=short))
    print("\n" + "\n".join(_totals(found)))
    return 0


def _trial(method: str, texts: dict[str, str], model: str, config: dict[str, Any]) -> Trial:
    from bench import study
    from bench.core.spec import TrainBudget
    from bench.models import _targets as targets
    from bench.study import overrides

    reads = methods.get(method, where="--method").reads
    axes = overrides.read(texts).axes
    for key, values in axes.items():
        flag = f"--{key.replace('_', '-')}"
        if key not in reads:
            raise BadInput(flag, f"must be read by the method, which {method} does not", way_out="leave it out")
        if len(values) > 1:
            raise BadInput(flag, "must be one value", got=", ".join(map(str, values)), way_out="give one")
    needs_default = "target_modules" in reads and "target_modules" not in axes
    defaults = targets.default_targets(config["model_type"], where="--target-modules") if needs_default else ()
    cell = {key: values[0] for key, values in axes.items()}
    budget = TrainBudget(max_steps=1, eval_steps=1)  # nothing is trained
    shared = {"task": "", "model": model, "data_hash": "", "model_hash": "", "budget": budget}
    two_rates = methods.get(method).at_equal_rates is not None
    rates = {"eta_A": 1e-3, "lr_ratio": 2.0} if two_rates else {"eta_A": 1e-3}  # at ratio 1 it would be LoRA
    return study.make_trial(method, {**rates, **cell, "seed": 0}, shared=shared, default_targets=defaults)


def _settings(trial: Trial) -> str:
    """Return the settings that decide what is trained."""
    modules = trial.target_modules
    named = modules if modules is None or isinstance(modules, str) else ", ".join(modules)
    parts = {
        "rank": trial.rank, "target_modules": named,
        **{name: getattr(trial, name) for name in ("layers_to_transform", "mora_type", "mora_rounding")},
    }  # fmt: skip
    said = "; ".join(f"{key} {value}" for key, value in parts.items() if value is not None)
    return f"{trial.method}: {said}" if said else trial.method


def _table(found: Parameters, *, short: bool) -> str:
    from bench.commands import _text
    from bench.engine import count

    rows = count.fold(found.rows) if short else found.rows
    lines = [
        (
            row.name,
            " x ".join(str(side) for side in row.shape) + (f", {row.times} times" if row.times > 1 else ""),
            f"{row.n:,}",
            "yes" if row.trainable else "no",
        )
        for row in rows
    ]
    return _text.table(("parameter", "shape", "numbers", "trainable"), lines)


def _totals(found: Parameters) -> list[str]:
    share = 100 * found.n_trainable / found.n_total
    lines = [
        f"trainable  {found.n_trainable:>15,}" + (f"  of which new head {found.n_head:,}" if found.n_head else ""),
        f"total      {found.n_total:>15,}  model {found.n_model:,} + adapters {found.n_adapters:,}",
        f"share      {share:>15.4f} %",
    ]
    if found.peft is not None:
        peft = found.peft
        lines.append(
            f"PEFT       {peft.n_trainable:>15,}  of {peft.n_total:,}, {100 * peft.n_trainable / peft.n_total:.4f} %: "
            f"{'; '.join(peft.why)}"
        )
    return lines
