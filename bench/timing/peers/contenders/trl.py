"""TRL: SFTTrainer on a PEFT model with padding-free batches, what users of causal language models run at its best.

A batch is one row of all its examples, told apart by their positions; the loss is taken over chunks of targets, so
logits of other tokens are never made. On a GPU it would use FlashAttention; on a CPU transformers' sdpa takes a mask of
blocks, [N, N] for the N tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.core.spec import Precision
from bench.data.splits import Encoded
from bench.timing.peers.contenders import _peer
from bench.timing.peers.contenders._base import Block
from bench.timing.peers.contenders._peer import Peer, PeerSession
from bench.timing.peers.timer import Timer
from bench.timing.peers.work import WARM_UP_STEPS, Work, n_targets


class PaddingFree(Peer):
    """One row for each batch."""

    label = "TRL SFTTrainer + PEFT, padding-free"
    packages: ClassVar[tuple[str, ...]] = (*Peer.packages, "trl")

    def start(self, work: Work, *, precision: Precision, n_trials: int, repeat: int) -> FreeSession:
        """Return a session of one trial."""
        _peer.require(self.packages)
        return FreeSession(work, self, precision, repeat)


class FreeSession(PeerSession):
    """A PEFT model, for which SFTTrainers are made; it only trains."""

    def train(self, timer: Timer) -> Block:
        """Warm up with another trainer on the same model, then time one epoch over the block."""
        split, warm_up = self._block()
        self._sft(warm_up, max_steps=WARM_UP_STEPS).train()
        clock = _peer.epoch_clock(timer)
        self._sft(split, callbacks=[clock]).train()
        return Block(
            seconds=clock.seconds, n_trials=1, steps=clock.steps, examples=len(split),
            tokens=int(split.lengths.sum()), computed_tokens=int(split.lengths.sum()), targets=n_targets(split),
        )  # fmt: skip

    def _sft(self, split: Encoded, *, max_steps: int = -1, callbacks: Sequence[Any] = ()) -> Any:
        return make_sft_trainer(
            self.model, split, self.work, directory=Path(self.directory.name), precision=self.precision,
            seed=self.repeat, max_steps=max_steps, callbacks=callbacks,
        )  # fmt: skip


def make_sft_trainer(
    model: Any, split: Encoded, work: Work, *, directory: Path, precision: Precision, seed: int, max_steps: int,
    callbacks: Sequence[Any] = (),
) -> Any:  # fmt: skip
    """Return an SFTTrainer that goes once over the split, or max_steps steps, on ids and labels as they are."""
    import datasets
    from transformers import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    labels = [_peer.row_of(split, place) for place in range(len(split))]
    arguments = SFTConfig(
        **_peer.arguments_of(work.trial, directory=directory, device=work.device, precision=precision, seed=seed),
        max_steps=max_steps, padding_free=True, packing=False, max_length=None, activation_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    arguments._n_gpu = min(1, arguments.n_gpu)
    columns = {name: [row[name] for row in labels] for name in ("input_ids", "labels")}
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=_no_tokenizer(), callbacks=list(callbacks),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _no_tokenizer() -> Any:
    """Return a tokenizer that is asked for its padding token alone: the texts are ids already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    known = Tokenizer(WordLevel({"<pad>": 0}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=known, pad_token="<pad>", eos_token="<pad>")


CONTENDER = PaddingFree()
