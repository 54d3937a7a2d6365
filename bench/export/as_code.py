"""A cell as Python to paste: PEFT's LoraConfig and the optimizer that the cell was trained with. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import methods
from bench.core.spec import TrainBudget, Trial


def peft_code(trial: Trial, *, modules_to_save: Sequence[str], paths: Sequence[str] = ()) -> str:
    """Return Python that builds this cell with PEFT on a loaded `model`, rates as they were trained.

    `paths` are the adapted modules, which are named one by one where PEFT cannot select them as the trial does.

    Raises:
        ValueError: for a method that PEFT has not.
    """
    method = methods.get(trial.method)
    if method.peft_type is None:
        raise ValueError(f"PEFT has no {trial.method}")
    parts = [_imports(trial), _config(trial, modules_to_save, paths), *method.peft_code(trial), *_freeze(trial)]
    optimizer = _loraplus(trial) if _has_two_rates(trial) else _adamw(trial)
    return "\n".join([*parts, optimizer, *(_head_rates(trial) if modules_to_save else []), _schedule(trial.budget)])


def plain_code(trial: Trial) -> str:
    """Return Python for what is no LoRA: full fine-tuning's optimizer, or a word on how to get the trained model."""
    budget = trial.budget
    method = methods.get(trial.method)
    if not method.merges:
        return f"# {trial.method} cannot be merged and PEFT has no such method: only its study repeats it"
    if not method.trains_base:
        return f"# PEFT has no {trial.method}: bench recommend --save DIR writes the model with its updates merged in"
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


def _has_two_rates(trial: Trial) -> bool:
    return methods.get(trial.method).at_equal_rates is not None


def _imports(trial: Trial) -> str:
    plus = ["from peft.optimizers import create_loraplus_optimizer"] if _has_two_rates(trial) else []
    lines = ["import torch", f"from peft import {methods.get(trial.method).peft_config}, get_peft_model", *plus]
    return "\n".join([*lines, "from transformers import get_scheduler", ""])


def peft_arguments(trial: Trial, *, modules_to_save: Sequence[str], paths: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments of PEFT's LoraConfig for the cell; `modules_to_save` and `paths` as for `peft_code`."""
    targets, layers = trial.target_modules, trial.layers_to_transform
    if isinstance(targets, str) and layers is not None:
        targets, layers = tuple(paths), None  # PEFT takes layers_to_transform with a list of names only
    method = methods.get(trial.method)
    settings: dict[str, Any] = {
        "task_type": "SEQ_CLS" if modules_to_save else "CAUSAL_LM",  # a classifier always has a new head
        **{key: _whole(value) for key, value in method.peft_settings(trial).items()},
        "target_modules": list(targets) if isinstance(targets, tuple) else targets,
    }
    if layers is not None:
        settings["layers_to_transform"] = list(layers)
    if modules_to_save:
        settings["modules_to_save"] = list(modules_to_save)
    return settings


def _config(trial: Trial, modules_to_save: Sequence[str], paths: Sequence[str]) -> str:
    settings = peft_arguments(trial, modules_to_save=modules_to_save, paths=paths)
    inside = "".join(f"    {name}={value!r},\n" for name, value in settings.items())
    return f"config = {methods.get(trial.method).peft_config}(\n{inside})\nmodel = get_peft_model(model, config)"


def _freeze(trial: Trial) -> list[str]:
    if trial.head_policy != "paper":
        return []
    return [
        'for name, parameter in model.named_parameters():  # head_policy "paper": it stays random',
        '    if "classifier.modules_to_save.default.dense." in name:',
        "        parameter.requires_grad_(False)",
    ]


def _adamw(trial: Trial) -> str:
    """Return plain LoRA's optimizer: decay on matrices only."""
    budget = trial.budget
    settings = {"lr": trial.eta_A, "betas": (budget.adam_beta1, budget.adam_beta2), "eps": budget.adam_eps}
    inside = "".join(f"    {name}={value!r},\n" for name, value in settings.items())
    return (
        "trained = [p for p in model.parameters() if p.requires_grad]\n"
        "optimizer = torch.optim.AdamW(\n    [\n"
        f'        {{"params": [p for p in trained if p.ndim > 1], "weight_decay": {budget.weight_decay!r}}},\n'
        '        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},\n'
        f"    ],\n{inside})"
    )


def _ratio(eta_A: float, eta_B: float) -> float:
    """Return the shortest ratio with which PEFT's product lr * loraplus_lr_ratio is eta_B to the last bit.

    Where rounding leaves none, the quotient is off by one part in 10^16 at the most.
    """
    quotient = eta_B / eta_A
    tried = (float(f"{quotient:.{digits}g}") for digits in range(1, 18))
    return next((ratio for ratio in tried if eta_A * ratio == eta_B), quotient)


def _loraplus(trial: Trial) -> str:
    budget = trial.budget
    if trial.eta_B is None:
        raise ValueError("a LoRA+ trial has an eta_B")
    settings = {
        "lr": trial.eta_A,
        "loraplus_lr_ratio": _ratio(trial.eta_A, trial.eta_B),
        "loraplus_lr_embedding": trial.eta_A if trial.loraplus_lr_embedding is None else trial.loraplus_lr_embedding,
        "loraplus_weight_decay": budget.weight_decay,
        "betas": (budget.adam_beta1, budget.adam_beta2),
        "eps": budget.adam_eps,
    }
    inside = "".join(f"    {name}={value!r},\n" for name, value in settings.items())
    return f"optimizer = create_loraplus_optimizer(\n    model,\n    torch.optim.AdamW,\n{inside})"


def _head_rates(trial: Trial) -> list[str]:
    """Return what sets the head's rate where it is not the optimizer's: matrices at eta_A, the others at eta_B."""
    if trial.head_policy in ("peft", "paper"):
        return []
    if trial.eta_B == trial.eta_A == trial.head_learning_rate:
        return []
    why = "; PEFT trains 1-D parameters of the head at eta_B, its matrices at eta_A" if _has_two_rates(trial) else ""
    return [
        f"# head_policy {trial.head_policy}{why}",
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


def _whole(value: Any) -> Any:
    """Return a whole number of 1 or more without its point, and what is none as it is: lora_alpha=16."""
    return int(value) if isinstance(value, float) and value >= 1 and value.is_integer() else value
