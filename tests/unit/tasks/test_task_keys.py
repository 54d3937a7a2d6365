"""The keys of a task TOML: the page is made of what checks them, examples are taken, and what cannot be is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import cli, tasks
from bench.core import metrics
from bench.core.errors import BadInput
from bench.data import causal
from bench.data.predictions import predictions_of
from bench.store.rows import load
from bench.tasks import _keys, _page
from bench.tasks._keys import CHAT, CLASSES, KEYS, KINDS, NUMBERS, REQUIRED, TABLES, TEXTS, Key

ROOT = Path(__file__).resolve().parents[3]
CLASS_NAMES = ("very bad", "bad", "good", "very good")


def test_the_page_of_keys_is_up_to_date_and_tells_every_key() -> None:
    page = (ROOT / "docs" / "reference" / "task-keys.md").read_text(encoding="utf-8")
    assert page == _page.page(), "run make dictionary"
    assert re.findall(r"^\| (\w+) \| (?!kinds)", page, re.MULTILINE) == [key.name for key in KEYS]


def test_the_blocks_of_the_page_are_tasks(tmp_path: Path) -> None:
    blocks = re.findall(r"(?:^    .*\n)+", _page.page(), re.MULTILINE)
    assert len(blocks) == 4
    for block in blocks:
        for name in re.findall(r'"(\w+\.(?:csv|tsv|jsonl))"', block):
            (tmp_path / name).write_text("")
        (tmp_path / "t.toml").write_text(re.sub(r"^    ", "", block, flags=re.MULTILINE))
        assert tasks.get(str(tmp_path / "t.toml")).name == "t"


def toml_of(kind: str, keys: dict[tuple[str, str], str]) -> str:
    """A task file of a kind with what must be given, and these keys, by table and name, as TOML."""
    least = {("", "kind"): f'"{kind}"', ("files", "train"): '"a.csv"', ("files", "eval"): '"a.csv"'}
    if kind == CHAT:
        least = {("", "kind"): '"chat"', ("files", "train"): '"train.jsonl"'}
    if kind == CLASSES:
        least[("", "labels")] = '["a", "b"]'
    if any(table == "hub" for table, _ in keys):
        least = {place: value for place, value in least.items() if place[0] != "files"} | {("hub", "id"): '"o/d"'}
    lines: list[str] = []
    for wanted in ("", *TABLES):
        of_table = [f"{name} = {value}" for (table, name), value in (least | keys).items() if table == wanted]
        lines += ([f"[{wanted}]"] if wanted and of_table else []) + of_table
    return "\n".join(lines)


def read(directory: Path, toml: str) -> Any:
    (directory / "a.csv").write_text("text,label\nx,a\n")
    for name in ("train.csv", "dev.csv", "test.csv", "train.jsonl", "dev.jsonl", "template.jinja", "letters.txt"):
        (directory / name).write_text("a letter" if name == "letters.txt" else "")
    (directory / "own.toml").write_text(toml)
    return tasks.get(str(directory / "own.toml"))


SCORES = {  # an example of each kind; the page has one of the first
    ("metric", NUMBERS): '"mse"',
    ("metric", TEXTS): '"perplexity"',
    ("metric", CHAT): '"bits_per_byte"',
    ("other_metrics", CHAT): '["exact_match", "perplexity"]',
    ("other_metrics", NUMBERS): '["mse"]',
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.place)
def test_every_example_is_taken_where_its_kind_says_so_and_refused_elsewhere(
    key: Key, kind: str, tmp_path: Path
) -> None:
    trained_as = TEXTS if kind == CHAT else kind
    if key.name == "kind":
        assert read(tmp_path, toml_of(kind, {})).kind == trained_as
        return
    if (key.name, kind) == ("other_metrics", TEXTS):
        given = {("", "metric"): '"exact_match"', ("", "other_metrics"): '["perplexity"]', ("columns", "prompt"): '"q"'}
    else:
        given = {(key.table, key.name): SCORES.get((key.name, kind), key.example)}
    if key.name == "template":
        given[("columns", "prompt")] = '"q"'
    if any(kind in one.kinds for one in KEYS if one.place == key.place):
        assert read(tmp_path, toml_of(kind, given)).kind == trained_as
        return
    with pytest.raises(BadInput, match=r"must be a known key"):
        read(tmp_path, toml_of(kind, given))


def test_defaults_are_what_the_page_says(tmp_path: Path) -> None:
    for kind in KINDS:
        task = read(tmp_path, toml_of(kind, {}))
        assert (task.empty_texts, task.other_metrics, task.test_split) == (False, (), None)
        assert task.default_model == {TEXTS: "gpt2", CHAT: "smollm2"}.get(kind, "roberta-base")
        assert task.metric == {CLASSES: "accuracy", NUMBERS: "pearson", TEXTS: "perplexity", CHAT: "eval_loss"}[kind]
    assert read(tmp_path, toml_of(TEXTS, {})).causal == causal.Layout(target="target")
    assert read(tmp_path, toml_of(TEXTS, {("columns", "prompt"): '"q"'})).metric == "exact_match"
    assert read(tmp_path, toml_of(CLASSES, {})).text_columns == ("text",)
    hub = read(tmp_path, toml_of(NUMBERS, {("hub", "id"): '"o/d"'}))
    assert (hub.train_split, hub.eval_split, hub.test_split, hub.hub_config) == ("train", "validation", None, None)
    assert read(tmp_path, toml_of(NUMBERS, {("hub", "test"): '"test"'})).test_split == "test"


def test_a_required_key_says_how_to_give_it(tmp_path: Path) -> None:
    for key in KEYS:
        if key.default is REQUIRED:
            given = {("hub", "config"): '"c"'} if key.table == "hub" else {}
            lines = toml_of(key.kinds[0], given).splitlines()
            left = [line for line in lines if not line.startswith(f"{key.name} = ")]
            with pytest.raises(BadInput, match=rf"{re.escape(key.place)}: must be given; add {key.name} = "):
                read(tmp_path, "\n".join(left))


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (
            CLASSES,
            {"labels": '["a", "b", "c"]', "metric": '"f1"'},
            "metric: f1 needs two labels, but got 3; use macro_f1 or weighted_f1 instead",
        ),
        (CLASSES, {"labels": '["a", "b", "c"]', "other_metrics": '["f1"]'}, "other_metrics: f1 needs two labels"),
        (CLASSES, {"metric": '"recall"'}, "metric: must be one number, but got recall, one for each class; use bal"),
        (CLASSES, {"metric": '"pearson"'}, "metric: must be a score of classification, but got 'pearson'"),
        (NUMBERS, {"metric": '"accuracy"'}, "metric: must be a score of regression, but got 'accuracy'; known: mse"),
        (NUMBERS, {"other_metrics": '["recall"]'}, "other_metrics: must be a score of regression"),
        (CLASSES, {"other_metrics": '["accuracy"]'}, "other_metrics: must not hold the metric itself, but got acc"),
        (CLASSES, {"other_metrics": '["acc"]'}, "other_metrics: must be a known metric, but got 'acc'"),
        (TEXTS, {"other_metrics": '["exact_match"]'}, "other_metrics: must be scores of the loss where there"),
        (TEXTS, {"metric": '"char_accuracy"'}, "metric: must be a score of the loss, such as perplexity, where there"),
        (CLASSES, {"empty_texts": '"yes"'}, "empty_texts: must be true or false"),
    ],
)
def test_what_cannot_be_scored_is_refused(kind: str, keys: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        read(tmp_path, toml_of(kind, {("", name): value for name, value in keys.items()}))


def write_own(directory: Path, *, train: list[str] | None = None, more: str = "") -> Path:
    """Four classes whose names hold spaces, in CSV files."""
    for name, n in (("train", 48), ("dev", 24), ("test", 16)):
        rows = [f'{i},"a {CLASS_NAMES[i % 4].split()[-1]}, long film {i}",{CLASS_NAMES[i % 4]}' for i in range(n)]
        own = train if name == "train" and train is not None else rows
        (directory / f"{name}.csv").write_text("\n".join(["id,review,verdict", *own]) + "\n")
    (directory / "my films.toml").write_text(
        f'labels = {json.dumps(CLASS_NAMES)}\nmetric = "macro_f1"\nother_metrics = ["accuracy", "recall"]\n{more}'
        '[columns]\ntext = "review"\nlabel = "verdict"\n'
        '[files]\ntrain = "train.csv"\neval = "dev.csv"\ntest = "test.csv"\n'
    )
    return directory / "my films.toml"


@pytest.mark.parametrize("text", ["", "   ", '" \t"'])
def test_an_empty_text_is_refused_with_its_file_and_line_unless_it_is_allowed(text: str, tmp_path: Path) -> None:
    rows = ["0,fine,good", f"1,{text},bad"]
    with pytest.raises(BadInput, match=r"train\.csv line 3: a text must not be empty; .* empty_texts = true"):
        tasks.load(tasks.get(str(write_own(tmp_path, train=rows))))
    allowed: Any = tasks.load(tasks.get(str(write_own(tmp_path, train=rows, more="empty_texts = true\n"))))
    assert len(allowed.train) == 2


def test_an_empty_prompt_is_refused_with_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "why", "a": "so"}\n{"q": " ", "a": "no"}\n')
    toml = 'kind = "causal_lm"\n[columns]\nprompt = "q"\ntarget = "a"\n[files]\ntrain = "a.jsonl"\neval = "a.jsonl"\n'
    (tmp_path / "t.toml").write_text(toml)
    with pytest.raises(BadInput, match=r"a\.jsonl line 2: a prompt must not be empty"):
        tasks.load(tasks.get(str(tmp_path / "t.toml")))
    (tmp_path / "t.toml").write_text("empty_texts = true\n" + toml)
    allowed: Any = tasks.load(tasks.get(str(tmp_path / "t.toml")))
    assert len(allowed.train) == 2


def test_four_classes_with_spaces_in_their_names_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = str(write_own(tmp_path))
    (tmp_path / "tiny.toml").write_text(
        f'# Comparison\ntask = {json.dumps(task)}\nmodel = "tiny-roberta"\nseeds = [0]\n'
        "[train]\nmax_steps = 2\nbatch_size = 4\nn_select = 4\n"
        '[grid.lora]\nrank = [2]\neta_A = [1e-3]\n[grid."lora+"]\nrank = [2]\neta_A = [1e-3]\nlr_ratio = [4]\n'
    )
    options = ["--study", str(tmp_path / "tiny.toml"), "--results-dir", str(tmp_path / "r"), "--device", "cpu"]
    assert cli.main(["compare", *options, "--fresh-seeds", "6"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^method +test macro_f1 +\+- +seeds +examples$", out, re.MULTILINE)
    document = json.loads((tmp_path / "r" / "tiny" / "comparison.json").read_text())
    fresh = load(tmp_path / "r" / "tiny-fresh").to_pylist()
    for row in load(tmp_path / "r" / "tiny").to_pylist():
        assert (row["test_metric"], row["n_test"]) == (None, None), "tuning never sees the test split"
    for row in fresh:
        assert row["n_test"] == 16
        predicted = predictions_of(row)
        assert predicted is not None
        labels = [i % 4 for i in range(24)]
        assert metrics.score("macro_f1", predicted, labels)[0] == pytest.approx(row["metric_value"])
        assert list(json.loads(row["other_metrics"])) == ["accuracy", *(f"recall[{name}]" for name in CLASS_NAMES)]
    for arm in document["arms"]:
        assert arm["tested"]["n_test"] == 16
        assert set(arm["tested"]["scores"]) <= {row["test_metric"] for row in fresh}
    assert cli.main(["report", *options]) == 0
    page = (tmp_path / "r" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "on the test split" in page
    assert "recall[very bad]" in page
    # another test file: the fresh rows stand, and their test scores are not told as its
    (tmp_path / "test.csv").write_text("id,review,verdict\n0,another,good\n")
    assert cli.main(["compare", *options, "--fresh-seeds", "6"]) == 0
    out = capsys.readouterr().out
    assert "48 / 24 examples + 1 to test chosen cells" in out
    assert "12 fresh runs are older than the test split as it is now" in out
    assert "test macro_f1" not in out


def test_the_keys_of_each_kind_have_metrics() -> None:
    assert set(_keys.METRICS) == set(KINDS)
    assert all(set(_keys.METRICS[kind]) <= set(metrics.METRICS) for kind in KINDS)
