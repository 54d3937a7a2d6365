"""The winning cell and what to do with it: PEFT code to paste, and a study of this harness that repeats it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

from bench import methods
from bench.settings import fields as study_fields
from bench.settings.as_toml import value as toml_value
from bench.spec import HEAD_POLICIES, TrainBudget, Trial
from bench.summary import BestCell, Score, best_cells, objective


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The best cell of all methods that are given, by what its method's best cell was chosen by."""

    cell: BestCell
    objective: float  # mean of select_metric (metric_value where nothing was held out), a diverged seed as the worst
    n_cells: int  # it was chosen from, all methods together


def choose(trials: Sequence[Trial], scores: Mapping[str, Score], *, higher_is_better: bool) -> Winner | None:
    """Return the best cell of all methods, None where no trial is finished or every one has diverged.

    Of equals the first in the order of `trials` comes first: methods are listed from the cheaper ones on.
    """
    best = best_cells(trials, scores, higher_is_better=higher_is_better)
    good = [cell for cell in best if cell.mean is not None]
    if not good:
        return None
    sign = 1.0 if higher_is_better else -1.0
    values = [_objective(cell, trials, scores, higher_is_better=higher_is_better) for cell in good]
    place = max(range(len(good)), key=lambda i: (sign * values[i], -i))
    n_cells = len({trial.cell for trial in trials if trial.trial_id in scores})
    return Winner(cell=good[place], objective=values[place], n_cells=n_cells)


def trial_of_row(row: Mapping[str, Any], like: Trial) -> Trial | None:
    """Return the trial of a stored row, with budget, meaning and version of `like`; None where it is another study's.

    It serves the rows of a search, whose trials no grid lists.
    """
    shared: dict[str, Any] = {"budget": like.budget, "meaning": like.meaning, "spec_version": like.spec_version}
    values = {f.name: row[f.name] for f in fields(Trial) if f.name in row and f.name not in shared}
    for name in ("target_modules", "layers_to_transform"):
        found = None if row[name] is None else json.loads(row[name])
        values[name] = tuple(found) if isinstance(found, list) else found
    policy = row["head_policy"]
    values["head_policy"] = policy if policy in HEAD_POLICIES else float(policy)
    trial = Trial(**values, **shared)
    return trial if trial.trial_id == row["trial_id"] else None


def peft_code(trial: Trial, *, modules_to_save: Sequence[str]) -> str:
    """Return Python that builds this LoRA or LoRA+ cell with PEFT on a loaded `model`, rates as they were trained.

    Raises:
        ValueError: for a method that PEFT's LoraConfig is not.
    """
    if trial.method not in ("lora", "lora+"):
        raise ValueError(f"no LoraConfig for {trial.method}")
    parts = [_IMPORTS, _config(trial, modules_to_save), *_reinitialise(trial), *_freeze(trial)]
    return "\n".join([*parts, _optimizer(trial), *_head_rates(trial), _schedule(trial.budget)])


def plain_code(trial: Trial) -> str:
    """Return Python for what is no LoRA: full fine-tuning's optimizer, or a word on how to get the trained model."""
    budget = trial.budget
    if trial.method != "full":
        return (
            f"# {trial.method} is no LoraConfig: bench recommend --save DIR writes the model with its updates merged in"
        )
    head = [] if isinstance(trial.head_policy, str) else [f"# the new head was trained at {trial.head_learning_rate!r}"]
    return "\n".join([
        "import torch",
        "from transformers import get_scheduler",
        "",
        *head,
        "optimizer = torch.optim.AdamW([",
        f"    {{'params': [p for p in model.parameters() if p.ndim > 1], 'weight_decay': {budget.weight_decay!r}}},",
        "    {'params': [p for p in model.parameters() if p.ndim < 2], 'weight_decay': 0.0},",
        f"], lr={trial.eta_A!r}, betas={(budget.adam_beta1, budget.adam_beta2)!r}, eps={budget.adam_eps!r})",
        _schedule(budget),
    ])  # fmt: skip


def study_toml(trial: Trial, seeds: Sequence[int], *, task: str, model: str, comment: str) -> str:
    """Return a study file of this harness with the one cell; `task` and `model` as a study gives them."""
    lines = [f"# {' '.join(comment.split())}", f"task = {toml_value(task)}", f"model = {toml_value(model)}"]
    lines += [f"seeds = {toml_value(list(seeds))}", "", "[train]"]
    lines += [f"{f.name} = {toml_value(_budget_value(f.name, trial.budget))}" for f in fields(TrainBudget)]
    lines += ["", f"[grid.{toml_value(trial.method)}]"]
    reads = methods.get(trial.method).reads
    keys = [key for key in study_fields.GRID_KEYS if key != "lr_ratio" and (key in reads or key in _ALWAYS)]
    if trial.method == "lora":
        keys.remove("eta_B")  # the one grid without it: eta_B is eta_A
    values = {key: getattr(trial, key) for key in keys}
    lines += [f"{key} = {toml_value(_axis(key, value))}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


_ALWAYS = ("eta_A", "head_policy")
_IMPORTS = """import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import get_scheduler
"""


def _objective(
    cell: BestCell, trials: Sequence[Trial], scores: Mapping[str, Score], *, higher_is_better: bool
) -> float:
    mine = [scores[t.trial_id] for t in trials if t.trial_id in scores and t.cell == cell.trial.cell]
    return fmean(objective(score, higher_is_better=higher_is_better) for score in mine)


def _config(trial: Trial, modules_to_save: Sequence[str]) -> str:
    targets = trial.target_modules
    settings: dict[str, object] = {
        "task_type": "SEQ_CLS" if modules_to_save else "CAUSAL_LM",  # a classifier always has a new head
        "r": trial.rank,
        "lora_alpha": _whole(trial.lora_alpha),
        "use_rslora": bool(trial.use_rslora),
        "lora_dropout": trial.lora_dropout or 0.0,
        "target_modules": list(targets) if isinstance(targets, tuple) else targets,
    }
    if trial.layers_to_transform is not None:
        settings["layers_to_transform"] = list(trial.layers_to_transform)
    if modules_to_save:
        settings["modules_to_save"] = list(modules_to_save)
    inside = "".join(f"    {name}={value!r},\n" for name, value in settings.items())
    return f"config = LoraConfig(\n{inside})\nmodel = get_peft_model(model, config)"


def _reinitialise(trial: Trial) -> list[str]:
    """Return what PEFT has no switch for: B random and A zero, the LoRA+ paper's init."""
    if trial.init != "zero_A":
        return []
    return [
        "for name, parameter in model.named_parameters():  # init zero_A: PEFT has no switch for it",
        '    if ".lora_A." in name or ".lora_embedding_B." in name:',
        "        torch.nn.init.zeros_(parameter)",
        '    elif ".lora_B." in name:',
        "        torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)",
        '    elif ".lora_embedding_A." in name:',
        "        torch.nn.init.normal_(parameter)",
    ]


def _freeze(trial: Trial) -> list[str]:
    if trial.head_policy != "paper":
        return []
    return [
        'for name, parameter in model.named_parameters():  # head_policy "paper": it stays random',
        '    if "classifier.modules_to_save.default.dense." in name:',
        "        parameter.requires_grad_(False)",
    ]


def _optimizer(trial: Trial) -> str:
    budget = trial.budget
    settings = {
        "lr": trial.eta_A,
        "loraplus_lr_ratio": trial.lr_ratio,
        "loraplus_lr_embedding": trial.eta_A if trial.loraplus_lr_embedding is None else trial.loraplus_lr_embedding,
        "loraplus_weight_decay": budget.weight_decay,
        "betas": (budget.adam_beta1, budget.adam_beta2),
        "eps": budget.adam_eps,
    }
    inside = "".join(f"    {name}={value!r},\n" for name, value in settings.items())
    return f"optimizer = create_loraplus_optimizer(\n    model,\n    torch.optim.AdamW,\n{inside})"


def _head_rates(trial: Trial) -> list[str]:
    """Return what sets the head's rate where it is not PEFT's: 2-D weights at eta_A, the others at eta_B."""
    if trial.head_policy in ("peft", "paper"):
        return []
    if trial.eta_B == trial.eta_A == trial.head_learning_rate:
        return []
    return [
        f"# head_policy {trial.head_policy}; PEFT trains 1-D parameters of the head at eta_B, its matrices at eta_A",
        'head = {id(p) for name, p in model.named_parameters() if ".modules_to_save." in name}',
        "for group in list(optimizer.param_groups):",
        '    mine = [p for p in group["params"] if id(p) in head]',
        '    group["params"] = [p for p in group["params"] if id(p) not in head]',
        "    if mine:",
        f'        optimizer.add_param_group({{**group, "params": mine, "lr": {trial.head_learning_rate!r}}})',
    ]


def _schedule(budget: TrainBudget) -> str:
    clip = "not clipped" if budget.max_grad_norm is None else f"clipped to norm {budget.max_grad_norm:g}"
    counts = f"num_warmup_steps={budget.warmup_steps}, num_training_steps={budget.max_steps}"
    kind = "" if budget.optimizer == "adamw" else f"; the cell was trained with {budget.optimizer}, not AdamW"
    return (
        f"scheduler = get_scheduler({budget.lr_scheduler_type!r}, optimizer, {counts})\n"
        f"# {budget.max_steps} steps of {budget.batch_size} examples of at most {budget.max_length} tokens; "
        f"gradients {clip}; {budget.precision}{kind}"
    )


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() else value


def _budget_value(name: str, budget: TrainBudget) -> object:
    value = getattr(budget, name)
    return 0 if name == "max_grad_norm" and value is None else value


def _axis(key: str, value: Any) -> Any:
    """Return one value of an axis as a grid holds it: a list is a list of values, so one that is itself a list."""
    return [list(value)] if key in study_fields.LISTS and isinstance(value, tuple) else value
