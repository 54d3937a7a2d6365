"""bench recommend: the winning cell as PEFT code and as a study of this harness; --save trains it once and saves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import methods
from bench.commands._options import Selection, study_command
from bench.commands._stored import RowsOption
from bench.core.errors import BadInput

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.commands._resolve import Readable, Resolved
    from bench.core.cells import BestCell, Score
    from bench.core.spec import Trial
    from bench.data.splits import TextData
    from bench.export.recommend import Winner

SAVE_HELP = "train the cell once and save it here: a PEFT adapter for LoRA and LoRA+, else a merged model"
STUDY_FILE, FACTS_FILE, CARD_FILE = "study.toml", "lorasweep.json", "README.md"
BASE = "base"  # a classifier's adapter stands on it
CHAT_TEMPLATE = "chat_template.jinja"
FRESH = "fresh"  # results/<study>-fresh holds what a comparison ran with fresh seeds


@study_command
def command(
    selection: Selection,
    save: Annotated[Path | None, typer.Option("--save", help=SAVE_HELP)] = None,
    rows: RowsOption = None,
) -> int:
    """Print the winning cell, ready to paste into PEFT and into a study; --methods narrows what can win."""
    from bench.commands import _last, _resolve

    if rows:
        if save is not None:
            raise BadInput("--save", "trains a cell, which --rows does not", way_out="leave one of them out")
        return _of_files(selection, rows)
    if save is not None:
        _check_new(save)
    selection = _last.as_swept(selection)
    resolved = (_resolve.resolve if save is None else _resolve.resolve_to_train)(selection.study())
    resolved, table = _read(resolved, selection)
    winner, trials = found(resolved, table, directory_of(resolved, selection))
    comment, code = words(winner, resolved), code_of(winner.cell.trial, resolved)
    text = _printed(winner, resolved, comment, code)
    if save is None:
        return 0
    chosen = min((t for t in trials if t.cell == winner.cell.trial.cell), key=lambda t: t.seed)
    return _save(chosen, resolved.with_test(), save, {STUDY_FILE: text}, score=comment, code=code)


# What PEFT trains in full of any classifier: peft/peft_model.py, PeftModelForSequenceClassification
_HEADS = ("classifier", "score")
_NAMES = (
    "# modules_to_save as PEFT has it for any classifier; without --rows the model is read and its new modules named"
)


def _of_files(selection: Selection, given: list[str]) -> int:
    """Print the winner among the rows of files; PEFT's code as far as it can be told without the base model."""
    from bench import methods
    from bench.commands import _stored
    from bench.comparison.arms import is_fresh_seed
    from bench.export import as_code

    table = _stored.load(_stored.paths_of(given))
    _, readable, own = _stored.read(selection, table)
    fresh = [row for row in own.to_pylist() if is_fresh_seed(row["seed"]) and row["seed"] not in readable.study.seeds]
    winner, _ = _winner(readable, own, Path("--rows"), fresh)
    trial = winner.cell.trial
    if methods.get(trial.method).peft_type is None:
        code = as_code.plain_code(trial)
    elif trial.layers_to_transform is not None:
        name = readable.model_name
        code = f"# PEFT's code names layers of {name}: recommend without --rows reads the model and prints it"
    elif readable.task.causal is not None:
        code = as_code.peft_code(trial, modules_to_save=())
    else:
        code = f"{_NAMES}\n{as_code.peft_code(trial, modules_to_save=_HEADS)}"
    _printed(winner, readable, words(winner, readable), code)
    return 0


def _printed(winner: Winner, readable: Readable, comment: str, code: str) -> str:
    """Print the winner as words, as code and as a study; return the study's TOML."""
    text = toml_of(winner, readable, comment)
    print(f"{comment}\n\n{code}\n\n{text}")
    return text


def toml_of(winner: Winner, readable: Readable, comment: str) -> str:
    """Return a study file that repeats the winning cell."""
    from bench.export import recommend

    study = readable.study
    return recommend.study_toml(winner.cell.trial, study.seeds, task=study.task, model=study.model, comment=comment)


def code_of(trial: Trial, resolved: Resolved) -> str:
    """Return the Python to paste for a cell."""
    from bench.export import as_code

    if methods.get(trial.method).peft_type is None:
        return as_code.plain_code(trial)
    return as_code.peft_code(trial, **_names_of(trial, resolved))


def peft_arguments(trial: Trial, resolved: Resolved) -> dict[str, Any] | None:
    """Return the arguments of PEFT's config of a cell; None for a method that PEFT does not have."""
    from bench.export import as_code

    if methods.get(trial.method).peft_type is None:
        return None
    return as_code.peft_arguments(trial, **_names_of(trial, resolved))


def _names_of(trial: Trial, resolved: Resolved) -> dict[str, Any]:
    """Return the modules that PEFT trains in full, and the adapted ones, as `as_code` takes them."""
    from bench import models
    from bench.export.takeaway import modules_to_save

    if resolved.task.causal is not None and trial.layers_to_transform is None:
        return {"modules_to_save": ()}
    from bench.engine.layers import adapted_layers

    located, task = resolved.located, resolved.task
    loaded = models.load_causal_lm(located) if task.causal else models.load_model(located, task.n_labels)
    shapes = adapted_layers(loaded.model, methods.get(trial.method), trial, loaded.full_names)
    return {"modules_to_save": modules_to_save(loaded), "paths": [shape.path for shape in shapes]}


def _read(resolved: Resolved, selection: Selection) -> tuple[Resolved, pa.Table]:
    """Return the study's rows, and the study as they are to be read; say what does not count."""
    from bench import store

    resolved, table, told = resolved.reading(store.load(directory_of(resolved, selection)))
    for line in told:
        print(f"warning: {line}")
    return resolved, table


def directory_of(resolved: Readable, selection: Selection) -> Path:
    """Return the directory that the study's rows lie in."""
    return selection.results_dir / (resolved.study.rows_from or resolved.study.name)


def _fresh_rows(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a comparison's fresh runs beside a study's directory."""
    from bench import store

    return list(store.load(directory.with_name(f"{directory.name}-{FRESH}")).to_pylist())


def found(resolved: Readable, table: pa.Table, directory: Path) -> tuple[Winner, tuple[Trial, ...]]:
    """Return the winning cell, scored over fresh seeds where a comparison has run, and every trial that could win.

    Raises:
        BadInput: where no trial of the study is finished, or none has a score.
    """
    return _winner(resolved, table, directory, _fresh_rows(directory))


def _winner(
    resolved: Readable, table: pa.Table, directory: Path, fresh: list[dict[str, Any]]
) -> tuple[Winner, tuple[Trial, ...]]:
    """Return the winning cell and every trial that could have won."""
    from bench.commands import _last
    from bench.core.cells import SCORE_COLUMNS, Score
    from bench.export import recommend

    trials = _trials(resolved, table)
    ids = {trial.trial_id for trial in trials}
    rows = table.select(list(SCORE_COLUMNS)).to_pylist()
    scores: dict[str, Score] = {row["trial_id"]: Score.of_row(row) for row in rows if row["trial_id"] in ids}
    winner = recommend.choose(trials, scores, higher_is_better=resolved.task.higher_is_better)
    if winner is None and not scores and table.num_rows and not resolved.is_search:
        other = "or recommend from another study"
        raise _last.none_found(directory, table, trials, otherwise=other)
    if winner is None:
        got = f"{len(scores)} finished, none with a score" if scores else None
        way_out = "run make sweep with the same options first"
        raise BadInput(str(directory), "there must be a trial with a score", got=got, way_out=way_out)
    return recommend.with_fresh(winner, fresh, higher_is_better=resolved.task.higher_is_better), trials


def _trials(resolved: Readable, table: pa.Table) -> tuple[Trial, ...]:
    """Return the trials of the study: those of its grid, or those that a search has chosen."""
    from bench.export import recommend

    if not resolved.is_search:
        return resolved.trials
    found = (recommend.trial_of_row(row, resolved.trials[0]) for row in table.to_pylist())
    return tuple(trial for trial in found if trial is not None)


def words(winner: Winner, resolved: Readable) -> str:
    """Return where the winner lies, its score, and how it was chosen."""
    from bench.commands import _show

    metric, lead = resolved.task.metric, f"{resolved.study.name}: {_show.place_of(winner.cell.trial)}: "
    how = (
        f"{'chosen on held-out training examples' if winner.cell.chosen_by == 'select_metric' else ON_EVALUATION} "
        f"({winner.objective:.4f} there), the best of {winner.n_cells} cells"
    )
    if winner.fresh is None:
        return f"{lead}{metric} {_score(winner.cell, 'seed')}; {how}"
    tuning = f"{winner.cell.mean:.4f} over {winner.cell.n} when tuned"
    return f"{lead}{metric} {_score(winner.fresh, 'fresh seed')}; {tuning}; {how}"


ON_EVALUATION = "chosen on the evaluation split"


def _score(cell: BestCell, noun: str) -> str:
    """Return a cell's mean with its spread, and over how many seeds."""
    from bench.commands import _text

    spread = "" if cell.spread is None else f" +- {cell.spread:.4f} (standard error over {cell.spread_of})"
    lost = f", {cell.n_diverged} of them diverged" if cell.n_diverged else ""
    return f"{cell.mean:.4f}{spread}, n = {_text.count(cell.n, noun)}{lost}"


def _check_new(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadInput("--save", "must be a new or empty directory", got=directory, way_out="name another one")


def _save(trial: Trial, resolved: Resolved, directory: Path, texts: dict[str, str], *, score: str, code: str) -> int:
    """Train a trial alone and write what it learnt; nothing is left behind where it diverges or the disk is full."""
    import shutil
    import tempfile

    from bench.data.toy import ToyData

    if methods.get(trial.method).leaves_as == "nothing":
        rule = "must be of a method that PEFT has or that can be merged"
        raise BadInput("--save", rule, got=trial.method, way_out="leave --save out, or recommend --methods lora")
    if isinstance(resolved.data, ToyData):
        raise BadInput("--save", "must be a text task: the toy's model has no files", way_out="leave --save out")
    if trial.budget.base_precision == "nf4" and methods.get(trial.method).leaves_as == "merged":
        rule, way_out = "updates are not merged into a base in 4 bits", "leave --base-precision out"
        raise BadInput("--save", rule, got=f"method {trial.method}", way_out=way_out)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".writing-"))
    except OSError as error:
        raise BadInput("--save", "must be writable", got=error.strerror, way_out="name another directory") from error
    try:
        outcome, kind = _train_into(made, trial, resolved, resolved.data, directory.absolute())
        if outcome.metric_value is None:
            print(f"seed {trial.seed} diverged ({outcome.reason}): nothing is saved")
            return 1
        facts = _facts(trial, resolved, outcome)
        card = _card(trial, resolved, outcome, directory.name, score=score, code=code)
        for name, text in {**texts, FACTS_FILE: facts, CARD_FILE: card}.items():
            (made / name).write_text(text, encoding="utf-8")
        for path in (made, *made.rglob("*")):  # a temporary directory is its owner's alone, as are safetensors' files
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        if directory.exists():
            directory.rmdir()
        made.rename(directory)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    scores = f"{outcome.metric_name} {outcome.metric_value:.4f}"
    scores += "".join(
        f", {name} {value:.4f}" for name, value in (outcome.other_metrics or {}).items() if value is not None
    )
    if outcome.test_metric is not None:
        scores += f"; on the test split {outcome.test_metric:.4f} (n = {outcome.n_test:,})"
    print(f"trained once with seed {trial.seed}: {scores}; {kind} in {directory}")
    return 0


def _train_into(directory: Path, trial: Trial, resolved: Resolved, data: TextData, final: Path) -> tuple[Any, str]:
    """Train and write adapter or merged model, and the tokenizer, into a directory that will be called `final`.

    Returns the outcome and what was written, in words.
    """
    import shutil

    from bench.executors import runtime
    from bench.export import takeaway
    from bench.models._locate import TOKENIZER_FILES, weight_files

    located = resolved.located
    is_adapter = methods.get(trial.method).peft_type is not None

    def keep(bank: Any, loaded: Any) -> None:
        if not is_adapter:
            takeaway.save_merged(bank, loaded, directory)
        elif resolved.task.causal is not None:
            takeaway.save_adapter(bank, loaded, directory, base_model=_base_name(resolved)[0])
        else:
            takeaway.save_base(loaded, directory / BASE, weights=weight_files(located.directory))
            takeaway.save_adapter(bank, loaded, directory, base_model=str(final / BASE))
        for name in (*TOKENIZER_FILES, CHAT_TEMPLATE):
            if (located.directory / name).is_file():
                shutil.copyfile(located.directory / name, directory / name)

    outcome = runtime.train_once(
        trial, task=resolved.task, data=data, located=located, device=resolved.study.device, keep=keep
    )
    return outcome, "PEFT adapter" if is_adapter else "merged model"


def _base_name(resolved: Resolved) -> tuple[str, bool]:
    """Return what the base model is found by, and whether that is a Hub id; else it is a directory."""
    from bench import models

    located = resolved.located
    if located.revision is None:
        return str(located.directory.absolute()), False
    return (str(models.get(located.name).hub_id) if located.name in models.names() else located.name), True


def _card(trial: Trial, resolved: Resolved, outcome: Any, title: str, *, score: str, code: str) -> str:
    from bench.commands import _show
    from bench.export import model_card

    name, is_hub_id = _base_name(resolved)
    return model_card.write(model_card.Card(
        title=title, base_model=name if is_hub_id else resolved.located.name, is_hub_id=is_hub_id,
        is_adapter=methods.get(trial.method).peft_type is not None, is_causal=resolved.task.causal is not None,
        task=resolved.task.name, labels=resolved.task.labels, cell=_show.place_of(trial), score=score, code=code,
        data_hash=trial.data_hash, four_bits=trial.budget.base_precision == "nf4",
        trained=f"seed {trial.seed}, {outcome.metric_name} {outcome.metric_value:.4f} on the evaluation split",
    ))  # fmt: skip


def _facts(trial: Trial, resolved: Resolved, outcome: Any) -> str:
    """Return JSON on what was trained, with what, and its score."""
    import json
    from dataclasses import asdict

    from bench.core import provenance

    place = asdict(provenance.collect(_device_name(resolved)))
    names = ("metric_name", "metric_value", "select_metric", "other_metrics", "n_eval", "test_metric", "n_test",
             "steps_done", "n_trainable", "train_seconds")  # fmt: skip
    result = {name: getattr(outcome, name) for name in names}
    known = {"study": resolved.study.name, "trial_id": trial.trial_id, "trial": asdict(trial), **result, **place}
    return json.dumps(known, indent=1) + "\n"


def _device_name(resolved: Resolved) -> str:
    from bench.schedule import workloads

    return workloads.place_of(resolved.study.device).device
