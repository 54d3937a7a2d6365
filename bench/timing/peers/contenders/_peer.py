"""Hugging Face's Trainer on a PEFT model: what most users run today, with every advantage that costs nothing.

Texts are tokenised beforehand and read from memory, rows are padded by a few lines instead of a tokenizer, nothing is
logged or saved, the loss is not checked for nan at every step, the model is copied from memory instead of loaded. The
clock runs from the first batch's loading to the last step's end: building model, optimizer and Trainer is left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bench.core.errors import BadInput
from bench.core.spec import Precision, Trial
from bench.data.splits import Encoded
from bench.data.text import take
from bench.engine.batching import Batches
from bench.engine.generate import until
from bench.timing.peers.contenders._base import Block, Contender, Session
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import WARM_UP_STEPS, Work, n_targets

EVAL_WARM_UP = 64  # examples
LEARNING_RATE = 1e-6
MEGA_BATCH = 50  # batches that group_by_length sorts at once on a large data set
DEFAULT_EVAL_BATCH = 8  # TrainingArguments.per_device_eval_batch_size


class Rows(Dataset[dict[str, Any]]):
    """One split as the dictionaries that Trainer takes."""

    def __init__(self, split: Encoded) -> None:
        self.rows = [row_of(split, i) for i in range(len(split))]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.rows[place]


class Collator:
    """Pads rows to the longest of them, or to `length`, and counts what it made."""

    def __init__(self, pad_id: int, length: int | None = None) -> None:
        self.fill = {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": 0, "labels": -100}
        self.length, self.computed_tokens = length, 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return tensors [b, T] of the keys, and labels [b], or [b, T] where tokens have them."""
        longest = self.length or max(len(row["input_ids"]) for row in rows)
        self.computed_tokens += len(rows) * longest
        keys = [key for key in self.fill if isinstance(rows[0].get(key), list)]
        batch = {key: torch.tensor([_padded(row[key], longest, self.fill[key]) for row in rows]) for key in keys}
        return {"labels": torch.tensor([row["labels"] for row in rows])} | batch if "labels" not in batch else batch


class Peer(Contender):
    """Trainer + PEFT, one trial at a time; subclasses say how batches are made."""

    peer = True
    packages: ClassVar[tuple[str, ...]] = ("peft", "accelerate")
    strategy = "random"  # TrainingArguments.train_sampling_strategy
    pads_to_fixed_length = False
    eval_batch_size: int | None = DEFAULT_EVAL_BATCH  # None: the training batch size
    frozen_dtype: torch.dtype | None = None  # what frozen weights are held in; None: as they come, fp32

    def n_steps(self, work: Work) -> int:
        """Return how many of the block's steps are timed."""
        return work.steps

    def start(self, work: Work, *, precision: Precision, n_trials: int, repeat: int) -> Session:
        """Return a session of one trial.

        Raises:
            BadInput: where peft or accelerate is missing.
        """
        if n_trials != 1:
            raise ValueError(f"Trainer trains one trial at a time, not {n_trials}")
        return PeerSession(work, self, precision, repeat)


class PeerSession(Session):
    """A PEFT model, for which Trainers are made."""

    def __init__(self, work: Work, peer: Peer, precision: Precision, repeat: int) -> None:
        self.work, self.peer, self.precision, self.repeat = work, peer, precision, repeat
        self.model = peft_model(work.model().model, work.trial, task="CAUSAL_LM" if work.is_causal else "SEQ_CLS")
        if peer.frozen_dtype is not None:
            hold_frozen(self.model, peer.frozen_dtype)
        self.directory = tempfile.TemporaryDirectory(prefix="lorasweep-peer-")

    def train(self, timer: Timer) -> Block:
        """Warm up with another Trainer on the same model, then time one epoch over the block."""
        self.warm_up()
        return self.timed(timer)

    def warm_up(self) -> None:
        """Train a little, with the longest batch among the steps."""
        self._trainer(self._block()[1], max_steps=WARM_UP_STEPS).train()

    def timed(self, timer: Timer) -> Block:
        """Time one epoch over the block."""
        split, _ = self._block()
        clock = epoch_clock(timer)
        collator = self._collator()
        self._trainer(split, collator=collator, callbacks=[clock]).train()
        return Block(
            seconds=clock.seconds,
            n_trials=1,
            steps=clock.steps,
            examples=len(split),
            tokens=int(split.lengths.sum()),
            computed_tokens=collator.computed_tokens,
            targets=n_targets(split),
        )

    def _block(self) -> tuple[Encoded, Encoded]:
        """Return what the timed epoch goes over, and what is trained on before."""
        places = [place for batch in self.work.batches(self.peer.n_steps(self.work)) for place in batch]
        warm_up = [*self.work.longest(), *places[: self.work.batch_size]]
        return take(self.work.data.train, _array(places)), take(self.work.data.train, _array(warm_up))

    def evaluate(self, timer: Timer) -> Block:
        """Time Trainer.evaluate."""
        split, collator = self.work.data.eval, self._collator()
        trainer = self._trainer(split, collator=collator)
        trainer.evaluate(Rows(take(split, _array(range(min(EVAL_WARM_UP, len(split)))))))
        rows, collator.computed_tokens = Rows(split), 0
        start = timer.read()
        trainer.evaluate(rows)
        seconds = timer.read() - start
        return Block(
            seconds=seconds,
            n_trials=1,
            steps=0,
            examples=len(split),
            tokens=int(split.lengths.sum()),
            computed_tokens=collator.computed_tokens,
            targets=n_targets(split),
        )

    def write(self, timer: Timer) -> Block:
        """Time `generate` in batches padded on the left, in file order or, grouped, by length."""
        split = self.work.written
        assert split.prompt_lengths is not None
        size = self.peer.eval_batch_size or max(self.work.batch_size, DEFAULT_EVAL_BATCH)
        grouped = self.peer.strategy == "group_by_length"
        order = np.argsort(split.prompt_lengths, kind="stable") if grouped else np.arange(len(split))
        batches = [order[start : start + size] for start in range(0, len(split), size)]
        self._written(split, batches[-1], limit=2)
        start, made, computed = timer.read(), 0, 0
        for places in batches:
            made += self._written(split, places, limit=self.work.limit)
            computed += len(places) * int(split.prompt_lengths[places].max())
        seconds, prompts = timer.read() - start, int(split.prompt_lengths.sum())
        return Block(
            seconds=seconds, n_trials=1, steps=0, examples=len(split), tokens=prompts + made,
            computed_tokens=computed + made, targets=made,
        )  # fmt: skip

    def _written(self, split: Encoded, places: Any, *, limit: int) -> int:
        """Return how many tokens `generate` writes after these prompts, ends included."""
        assert self.work.data.reading is not None
        batches, end_id = Batches(split, device=self.work.device), self.work.data.reading.end_id
        ids_bxP, length_b = batches.prompts(places, end_id)
        seen_bxP = torch.arange(ids_bxP.shape[1], device=ids_bxP.device) >= (ids_bxP.shape[1] - length_b)[:, None]
        half = torch.autocast(self.work.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.no_grad(), half:
            texts_bxL = self.model.eval().generate(
                input_ids=ids_bxP, attention_mask=seen_bxP.long(), do_sample=False, max_new_tokens=limit,
                eos_token_id=end_id, pad_token_id=end_id, use_cache=True,
            )[:, ids_bxP.shape[1] :]  # fmt: skip
        return sum(min(limit, len(until(text, end_id)) + 1) for text in texts_bxL.tolist())

    def close(self) -> None:
        """Remove the Trainer's directory."""
        self.directory.cleanup()

    def _collator(self) -> Collator:
        length = self.work.pad_to if self.peer.pads_to_fixed_length else None
        return Collator(int(self.model.config.pad_token_id or 0), length)

    def _trainer(self, split: Encoded, *, collator: Collator | None = None, **more: Any) -> Any:
        return make_trainer(
            self.model, Rows(split), self.work.trial,
            directory=Path(self.directory.name), device=self.work.device, precision=self.precision,
            collator=collator or self._collator(), strategy=self.peer.strategy, seed=self.repeat,
            eval_batch_size=self.peer.eval_batch_size or self.work.batch_size, **more,
        )  # fmt: skip


def peft_model(model: Any, trial: Trial, *, task: str = "SEQ_CLS") -> Any:
    """Return a transformers model with PEFT's LoRA of the trial's settings; `task` is PEFT's task_type.

    Raises:
        BadInput: where peft is missing.
    """
    require()
    from peft import LoraConfig, get_peft_model

    targets = trial.target_modules
    config = LoraConfig(
        r=trial.rank, lora_alpha=trial.lora_alpha, lora_dropout=trial.lora_dropout, task_type=task,
        fan_in_fan_out=model.config.model_type == "gpt2",
        target_modules=targets if isinstance(targets, str) else list(targets or ()),
        use_rslora=bool(trial.use_rslora),
        layers_to_transform=None if trial.layers_to_transform is None else list(trial.layers_to_transform),
    )  # fmt: skip
    return get_peft_model(model, config)


def hold_frozen(model: Any, dtype: torch.dtype) -> None:
    """Hold the weights that are not trained in `dtype`, in place."""
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.to(dtype)


def make_trainer(
    model: Any, rows: Rows, trial: Trial, *, directory: Path, device: torch.device, precision: Precision,
    collator: Collator, strategy: str, seed: int, eval_batch_size: int, max_steps: int = -1,
    callbacks: Sequence[Any] = (), optimizers: tuple[Any, Any] = (None, None), learning_rate: float = LEARNING_RATE,
) -> Any:  # fmt: skip
    """Return a Trainer that goes once over `rows`, or max_steps steps, and neither logs nor saves."""
    require()
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

    class Grouped(LengthGroupedSampler):  # type: ignore[misc]
        """Sorts MEGA_BATCH batches at once, as on a data set of any usual size; a small one would get fewer."""

        def __iter__(self) -> Any:
            return iter(get_length_grouped_indices(self.lengths, self.batch_size, MEGA_BATCH, self.generator))

    class Plain(Trainer):  # type: ignore[misc]
        """Trainer itself, apart from the size of the groups."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(train_dataset)
            if isinstance(sampler, LengthGroupedSampler):
                return Grouped(sampler.batch_size, lengths=sampler.lengths, generator=sampler.generator)
            return sampler

    given = arguments_of(trial, directory=directory, device=device, precision=precision, seed=seed)
    arguments = TrainingArguments(
        **{**given, "learning_rate": learning_rate}, max_steps=max_steps, per_device_eval_batch_size=eval_batch_size,
        train_sampling_strategy=strategy, prediction_loss_only=isinstance(rows.rows[0]["labels"], list),
    )  # fmt: skip
    arguments._n_gpu = min(1, arguments.n_gpu)  # one trial on one GPU: never split over several
    trainer = Plain(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=list(callbacks),
        optimizers=optimizers,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def arguments_of(
    trial: Trial, *, directory: Path, device: torch.device, precision: Precision, seed: int
) -> dict[str, Any]:
    """Return what every trainer is told: the trial's settings, and to neither log nor save."""
    budget = trial.budget
    return {
        "output_dir": str(directory), "per_device_train_batch_size": budget.batch_size, "num_train_epochs": 1,
        "learning_rate": LEARNING_RATE, "lr_scheduler_type": budget.lr_scheduler_type,
        "warmup_steps": budget.warmup_steps, "weight_decay": budget.weight_decay,
        "max_grad_norm": budget.max_grad_norm or 0.0, "bf16": precision == "bf16", "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda", "seed": seed, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "eval_strategy": "no", "logging_nan_inf_filter": False, "disable_tqdm": True,
    }  # fmt: skip


def epoch_clock(timer: Timer) -> Any:
    """Return a callback that times an epoch from before its first batch is loaded to the end of its last step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """`seconds` and `steps` of the epoch."""

        def __init__(self) -> None:
            self.began = self.seconds = 0.0
            self.steps = 0

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.began = timer.read()

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.steps += 1
            if state.global_step == state.max_steps:  # in between nobody waits for the device
                self.seconds = timer.read() - self.began

    return Clock()


def require(packages: Sequence[str] = Peer.packages, *, command: str = "bench") -> None:
    """Refuse to go on without the peers' packages.

    Raises:
        BadInput: where one of them is missing.
    """
    import importlib.util

    for package in packages:
        if importlib.util.find_spec(package) is None:
            way_out = f"run make {command}, which installs it, or pip install -r requirements-dev.txt"
            raise BadInput(command, "the peers must be installed", got=f"no package {package}", way_out=way_out)


def row_of(split: Encoded, place: int) -> dict[str, Any]:
    """Return one example as Trainer takes it; of a causal language model labels are target ids, else -100."""
    part = slice(split.offsets[place], split.offsets[place + 1])
    ids = split.ids[part].tolist()
    row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(split.labels[place])}
    targets = split.is_target()
    if targets is not None:
        row["labels"] = np.where(targets[part], split.ids[part], -100).tolist()
    return row if split.type_ids is None else {**row, "token_type_ids": split.type_ids[part].tolist()}


def _padded(values: list[int], length: int, fill: int) -> list[int]:
    return values + [fill] * (length - len(values))


def _array(places: Any) -> Any:
    return np.array(list(places), dtype=np.int64)
