"""Whatever a sweep refuses, looked for before anything trains: one list, read alike by sweep, plan and doctor.

A check looks at a `Subject` and returns what it found in a few words, or raises BadInput. `CHECKS` is their order.
To add one, append it there; a check that imports torch or transformers, or takes seconds, gives `kept_by`: what its
outcome rests on. That it passed is then kept in the cache, so that a second plan neither imports nor repeats it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from bench import methods, models, study, tasks
from bench.core import cache, provenance
from bench.core.errors import BadInput
from bench.data import causal, held_out, text, toy
from bench.data.held_out import HeldOut
from bench.data.splits import Split, TextData
from bench.executors import runtime
from bench.models import _targets as targets

if TYPE_CHECKING:
    from bench.core.spec import Study, Trial
    from bench.data.splits import EncodedData
    from bench.data.toy import ToyData
    from bench.models import Located
    from bench.tasks import Task

SAMPLE = 2000  # examples of a split that are tokenised: the longest tenth, and the rest evenly spaced
LONGEST_SHARE = 0.1


class Subject:
    """A study, and what its trials stand on; each part is read when it is first asked for, and once.

    Asking raises BadInput where the part is missing, malformed or out of reach.
    """

    def __init__(self, study: Study) -> None:
        self.study = study

    @functools.cached_property
    def task(self) -> Task:
        """The task."""
        return tasks.get(self.study.task)

    @functools.cached_property
    def data(self) -> TextData | ToyData:
        """The task's examples, as texts."""
        return tasks.load(self.task, None if self.study.data_dir is None else Path(self.study.data_dir))

    @functools.cached_property
    def located(self) -> Located:
        """The base model on this disk."""
        return models.locate(self.study.model)

    @functools.cached_property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial of the grids, as the study asks for it."""
        return study.expand(
            self.study,
            data_hash=self.data.data_hash,
            model_hash=self.located.model_hash,
            default_targets=targets.default_targets(self.located.model_type) if _needs_targets(self.study) else (),
            task_name=self.task.name,
            model_name=self.located.name,
        )

    @functools.cached_property
    def held_out(self) -> HeldOut | None:
        """What of train is held out for choosing; None where the task has no texts."""
        if not isinstance(self.data, TextData):
            return None
        layout = self.task.causal
        data = self.data if layout is None else causal.joined(self.data, layout)
        return held_out.hold_out(data, self.study.budget.n_select)

    @functools.cached_property
    def sample(self) -> EncodedData | None:
        """A sample of the data as the engine gets it, token ids made by the functions that a sweep calls."""
        if not isinstance(self.data, TextData):
            return None
        budget, data = self.study.budget, self.data
        test = None if data.test is None else sample_of(data.test)
        some = replace(data, train=sample_of(data.train), eval=sample_of(data.eval), test=test)
        if self.task.causal is not None:
            return causal.encode(some, self.located, self.task.causal, metric=self.task.metric,
                                 max_length=budget.max_length, n_select=0)  # fmt: skip
        return text.encode(some, self.located, n_labels=self.task.n_labels, metric=self.task.metric,
                           max_length=budget.max_length, n_select=0)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that must hold before a study trains.

    `needs` names the checks without which it cannot be looked at. `kept_by` returns what the outcome rests on, beside
    this code and its libraries, as something JSON can hold; None: the check is cheap and never kept.
    """

    name: str
    look: Callable[[Subject], str]  # -> what it found; raises BadInput
    needs: tuple[str, ...] = ()
    kept_by: Callable[[Subject], object] | None = None


def _data(subject: Subject) -> str:
    return f"{subject.study.task}: {len(subject.data.train):,} / {len(subject.data.eval):,} examples"


def _model(subject: Subject) -> str:
    located = subject.located
    return f"{located.name}: {located.model_type} in {located.directory}"


def _trials(subject: Subject) -> str:
    toy.check(subject.task.kind, subject.located.model_type, subject.trials)
    causal.check(subject.task.kind, subject.task.causal, subject.located.model_type, subject.trials)
    return f"{len(subject.trials):,} trials"


def _modules(subject: Subject) -> str:
    models.check_targets(subject.located, subject.trials, causal=subject.task.causal is not None)
    return "modules to adapt found, ranks fit them"


def _shapes(subject: Subject) -> str:
    from bench.engine.shapes import check_shapes

    if subject.task.kind == toy.KIND:
        return "no layers"
    return check_shapes(subject.located, subject.trials, labels=subject.task.labels)


def _shapes_rest_on(subject: Subject) -> object:
    adapted = [[getattr(trial, name) for name in models.LAYER_SETTINGS] for trial in models.distinct(subject.trials)]
    return [subject.located.model_hash, subject.located.name, subject.task.labels, adapted]


def _vocabulary(subject: Subject) -> str:
    data = subject.data
    if not isinstance(data, TextData):
        return "no texts"
    texts = [*data.train.texts, *(data.train.pairs or ())]
    return models.check_vocabulary(subject.located, texts[:: max(1, len(texts) // SAMPLE)])


def _vocabulary_rests_on(subject: Subject) -> object:
    located = subject.located
    return [subject.data.data_hash, located.tokenizer_hash, located.config.get("vocab_size"), located.model_hash]


def _architecture(subject: Subject) -> str:
    if subject.task.kind == toy.KIND:
        return "no transformers model"
    from bench.engine import guard

    kind: Literal["causal", "classification"] = "causal" if subject.task.kind == causal.KIND else "classification"
    scores = (subject.task.metric, *subject.task.other_metrics)
    for trial in _kinds_of_trial(subject).values():
        guard.require_config(subject.located.config, trial, kind, writes=causal.writes(*scores))
    return f"{subject.located.model_type} trains as transformers computes it"


def _kinds_of_trial(subject: Subject) -> dict[tuple[object, ...], Trial]:
    """Return one trial for each method and set of adapted layers."""
    return {(methods.identity(t).arm, t.target_modules, t.layers_to_transform): t for t in subject.trials}


def _architecture_rests_on(subject: Subject) -> object:
    task = subject.task
    scores = [task.metric, *task.other_metrics]
    return [subject.located.config, task.kind, scores, sorted(str(kind) for kind in _kinds_of_trial(subject))]


def _precision(subject: Subject) -> str:
    precision = subject.study.budget.precision
    runtime.check_precision(precision, subject.study.device)
    runtime.check_base(subject.trials, is_causal=subject.task.causal is not None, device=subject.study.device)
    base = "" if subject.study.budget.base_precision == "same" else ", the base in 4 bits"
    return f"{precision}, in which the device computes{base}"


def _length(subject: Subject) -> str:
    budget = subject.study.budget
    if subject.task.kind == toy.KIND:
        return "no texts"
    text.check_length(subject.located, budget.max_length)
    return f"max_length {budget.max_length}, which the model takes"


def _tokens(subject: Subject) -> str:
    sample = subject.sample
    if sample is None:
        return "no texts"
    lengths = np.concatenate([sample.train.lengths, sample.eval.lengths])
    at_limit = float(np.mean(lengths >= subject.study.budget.max_length))
    found = f"{len(lengths):,} examples tokenised, up to {int(lengths.max())} tokens; {at_limit:.0%} reach max_length"
    return "; ".join((found, *sample.notes))


def _tokens_rest_on(subject: Subject) -> object:
    budget, task, located = subject.study.budget, subject.task, subject.located
    layout = None if task.causal is None else asdict(task.causal)
    data = [subject.data.data_hash, task.metric, task.n_labels, layout, budget.max_length]
    template = causal.template_of(located, task.causal)
    return [*data, template, located.tokenizer_hash, models.max_tokens(located), located.n_token_types, located.name]


CHECKS = (
    Check(name="data", look=_data),
    Check(name="model", look=_model),
    Check(name="trials", look=_trials, needs=("data", "model")),
    Check(name="modules", look=_modules, needs=("trials",)),
    Check(name="shapes", look=_shapes, needs=("modules",), kept_by=_shapes_rest_on),
    Check(name="logits", look=_architecture, needs=("shapes",), kept_by=_architecture_rests_on),
    Check(name="precision", look=_precision, needs=("trials",)),
    Check(name="length", look=_length, needs=("trials",)),
    Check(name="vocabulary", look=_vocabulary, needs=("trials",), kept_by=_vocabulary_rests_on),
    Check(name="tokens", look=_tokens, needs=("length", "vocabulary"), kept_by=_tokens_rest_on),
)
RESOLVED = ("data", "model", "trials", "modules")  # what reading a study's rows takes, too


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check came to: what it found in words, or the error that it raised."""

    name: str
    found: str
    error: Exception | None = None


def require(subject: Subject, *, only: tuple[str, ...] | None = None) -> dict[str, str]:
    """Do the checks in order (`only`: those of these names); return what each found, by name.

    Raises:
        BadInput: the first one that is found.
    """
    return {check.name: passed(check, subject) for check in CHECKS if only is None or check.name in only}


def look(subject: Subject) -> Iterator[Finding]:
    """Yield what each check comes to, in order; those whose needs are not met are left out."""
    met: set[str] = set()
    for check in CHECKS:
        if not met.issuperset(check.needs):
            continue
        try:
            found = passed(check, subject)
        except Exception as error:  # what no check has thought of is a finding, too
            words = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}"
            yield Finding(name=check.name, found=words, error=error)
        else:
            met.add(check.name)
            yield Finding(name=check.name, found=found)


def passed(check: Check, subject: Subject) -> str:
    """Return what the check found, now or when it last passed on the same things.

    Raises:
        BadInput: what is refused is looked at again every time.
    """
    if check.kept_by is None:
        return _look(check, subject)
    path = _kept(check, check.kept_by(subject))
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["found"])
    except (OSError, ValueError, KeyError, TypeError):
        found = _look(check, subject)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs the next plan the look, no more
        cache.write_text(path, json.dumps({"found": found}))
    return found


def _look(check: Check, subject: Subject) -> str:
    """Return what the check found; an error about a key of the study names the file that gives it."""
    try:
        return check.look(subject)
    except BadInput as error:
        raise error.at(subject.study.where(error.where.lstrip("-")) or error.where) from error


def _kept(check: Check, rests_on: object) -> Path:
    parts = [check.name, rests_on, provenance.source_hash(), provenance.versions()]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return cache.cache_dir() / "checks" / f"{digest[:32]}.json"


def sample_of(split: Split) -> Split:
    """Return at most SAMPLE examples in their order: the longest texts, and others evenly spaced."""
    n = len(split)
    if n <= SAMPLE:
        return split
    sizes = np.fromiter((len(t) for t in split.texts), dtype=np.int64, count=n)
    if split.pairs is not None:
        sizes = sizes + np.fromiter((len(t) for t in split.pairs), dtype=np.int64, count=n)
    n_longest = int(LONGEST_SHARE * SAMPLE)
    longest = np.argsort(-sizes, kind="stable")[:n_longest]
    spaced = np.linspace(0, n - 1, SAMPLE - n_longest).astype(np.int64)
    places = np.union1d(longest, spaced)
    return Split(
        texts=tuple(split.texts[i] for i in places),
        pairs=None if split.pairs is None else tuple(split.pairs[i] for i in places),
        labels=split.labels[places],
    )


def _needs_targets(chosen: Study) -> bool:
    """Return whether a grid leaves target_modules to the architecture, which may have no default."""
    return any("target_modules" in methods.get(g.method).reads and not g.axis("target_modules") for g in chosen.grids)
