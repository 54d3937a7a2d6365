"""Tasks: GLUE's layouts, other formats, custom tasks, and one clear line for every kind of bad data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import models, tasks
from bench.core import metrics
from bench.core.errors import BadInput
from bench.tasks import Task

GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2")
REAL = os.environ.get("LORASWEEP_DATA")

# One file a task in GLUE's own layout: file name stem -> lines, and the examples in it.
LAYOUTS: dict[str, tuple[str, list[str], list[tuple[tuple[str, ...], int]]]] = {
    "sst2": (
        "dev",
        ["sentence\tlabel", 'a " quoted film \t1', "bad \t0"],
        [(('a " quoted film ',), 1), (("bad ",), 0)],
    ),
    "cola": ("dev", ["gj04\t1\t\tThey sang.", "cj99\t0\t*\tThem sang."], [(("They sang.",), 1), (("Them sang.",), 0)]),
    "mrpc": (
        "dev",
        ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\t" He left .\tHe went . "'],
        [(('" He left .', 'He went . "'), 1)],
    ),
    "mnli": (
        "dev_matched",
        [
            "index\tpromptID\tpairID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label",
            "0\t1\t2\tfiction\t(x)\tIt rained.\tIt was dry.\tneutral\tcontradiction",
        ],
        [(("It rained.", "It was dry."), 2)],
    ),
    "qqp": (
        "dev",
        ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tWhy?\tWhat for?\t1", "4\t5\tcut short"],
        [(("Why?", "What for?"), 1)],
    ),
    "qnli": (
        "dev",
        ["index\tquestion\tsentence\tlabel", "0\tWho?\tHe did.\tnot_entailment"],
        [(("Who?", "He did."), 1)],
    ),
    "rte": ("dev", ["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tentailment"], [(("A.", "B."), 0)]),
}


def _write(directory: Path, name: str, lines: list[str], ending: str = "\n") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes((ending.join(lines) + ending).encode())


def _sst2(root: Path, train: str = "sentence\tlabel\ngood\t1\nbad\t0\n") -> Path:
    _write(root / "sst2", "dev.tsv", ["sentence\tlabel", "fine\t1"])
    (root / "sst2" / "train.tsv").write_bytes(train.encode() if isinstance(train, str) else train)
    return root


def _examples(split: object) -> list[tuple[tuple[str, ...], int]]:
    texts = zip(split.texts, split.pairs, strict=True) if split.pairs else ((t,) for t in split.texts)  # type: ignore[attr-defined]
    return [(tuple(t), int(y)) for t, y in zip(texts, split.labels, strict=True)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", tasks.names())
def test_contract_of_every_task(name: str) -> None:
    task = tasks.get(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.default_model in models.names()
    assert {task.metric, *task.other_metrics} <= set(metrics.METRICS)
    if task.kind == tasks.TEXT_CLASSIFICATION:
        assert task.n_labels == len(set(task.labels)) >= 2
        assert task.higher_is_better
        assert task.read is not None or (task.hub_id and len(task.text_columns) in (1, 2))


def test_the_seven_glue_tasks_are_there() -> None:
    assert set(GLUE) <= set(tasks.names())
    assert {tasks.get(name).metric for name in GLUE if name != "cola"} == {"accuracy"}
    assert tasks.get("cola").metric == "matthews_correlation"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("name", GLUE)
def test_glue_layouts(name: str, ending: str, tmp_path: Path) -> None:
    stem, lines, expected = LAYOUTS[name]
    _write(tmp_path / name, f"{stem}.tsv", lines, ending)
    _write(tmp_path / name, "train.tsv", lines, ending)
    data = tasks.load(tasks.get(name), tmp_path)
    assert _examples(data.eval) == _examples(data.train) == expected
    assert data.train.labels.dtype == np.int64


def test_glue_s_own_directory_names_are_found(tmp_path: Path) -> None:
    _sst2(tmp_path)
    (tmp_path / "sst2").rename(tmp_path / "SST-2")
    assert len(tasks.load(tasks.get("sst2"), tmp_path).train) == 2


def test_a_tsv_with_the_hub_s_columns_is_read_by_its_header(tmp_path: Path) -> None:
    for stem in ("train", "dev"):
        _write(tmp_path / "cola", f"{stem}.tsv", ["sentence\tlabel", "They sang.\tacceptable"])
    assert _examples(tasks.load(tasks.get("cola"), tmp_path).eval) == [(("They sang.",), 1)]


def test_the_other_formats_give_the_same_data(tmp_path: Path) -> None:
    rows = [("a,b\n\u2028c", 'd "e"', 1), ("f", "", 0)]
    columns = ("sentence1", "sentence2", "label")
    as_dicts = [dict(zip(columns, row, strict=True)) for row in rows]
    csv_text = 'sentence1,sentence2,label\n"a,b\n\u2028c","d ""e""",1\nf,,not_equivalent\n'
    for suffix in ("csv", "jsonl", "parquet"):
        directory = tmp_path / suffix / "mrpc"
        directory.mkdir(parents=True)
        for stem in ("train", "validation"):
            path = directory / f"{stem}.{suffix}"
            if suffix == "parquet":
                pq.write_table(pa.Table.from_pylist([{"idx": 1, **row} for row in as_dicts]), path)
            elif suffix == "jsonl":
                path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in as_dicts), "utf-8")
            else:
                path.write_text(csv_text, "utf-8")
    loaded = [tasks.load(tasks.get("mrpc"), tmp_path / suffix) for suffix in ("csv", "jsonl", "parquet")]
    assert _examples(loaded[0].train) == [(row[:2], row[2]) for row in rows]
    assert len({data.data_hash for data in loaded}) == 1


def test_the_hash_depends_on_texts_labels_and_order(tmp_path: Path) -> None:
    versions = ["good\t1\nbad\t0\n", "good\t0\nbad\t0\n", "bad\t0\ngood\t1\n", "good \t1\nbad\t0\n"]
    hashes = [
        tasks.load(tasks.get("sst2"), _sst2(tmp_path / str(i), "sentence\tlabel\n" + text)).data_hash
        for i, text in enumerate(versions)
    ]
    assert len(set(hashes)) == 4
    assert all(len(value) == 16 for value in hashes)
    assert tasks.load(tasks.get("sst2"), _sst2(tmp_path / "again")).data_hash == hashes[0]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("sentence\tlabel\ngood\t1\nbad\n", r"train\.tsv line 3: must have 2 tab-separated fields .*, but got 1;"),
        ("sentence\tlabel\ngood\t1\textra\n", r"train\.tsv line 2: must have 2 tab-separated fields .*, but got 3;"),
        ("sentence\tlabel\n\ngood\t1\n", r"train\.tsv line 2: must have 2 tab-separated fields"),
        (
            "sentence\tlabel\ngood\t2\n",
            r"train\.tsv line 2: label must be one of negative, positive, 0, 1, but got '2'",
        ),
        ("sentence\tlabel\ngood\t\n", r"train\.tsv line 2: label must be one of .*, but got ''"),
        ("sentence\tlabel\n", r"train\.tsv: must hold at least one example"),
        ("", r"train\.tsv: must have a column sentence, but got no columns"),
        ("text\tlabel\ngood\t1\n", r"train\.tsv: must have a column sentence, but got only label, text;"),
    ],
)
def test_bad_tsv_is_named_by_file_and_line(train: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        tasks.load(tasks.get("sst2"), _sst2(tmp_path, train))


def test_bytes_that_are_no_utf8_are_named_by_line(tmp_path: Path) -> None:
    _sst2(tmp_path)
    (tmp_path / "sst2" / "train.tsv").write_bytes(b"sentence\tlabel\ngood\t1\nb\xe4d\t0\n")
    with pytest.raises(BadInput, match=r"train\.tsv line 3: must be UTF-8"):
        tasks.load(tasks.get("sst2"), tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", '{"sentence": "a", "label": 1}\n{"sentence"\n', r"train\.jsonl line 2: must be a JSON object"),
        ("train.jsonl", "[1]\n", r"train\.jsonl line 1: must be a JSON object, but got list"),
        ("train.jsonl", '{"sentence": "a"}\n', r"train\.jsonl line 1: must have a column label, but got only sentence"),
        ("train.jsonl", '{"sentence": null, "label": 1}\n', r"line 1: a text must be a string, but got None"),
        ("train.jsonl", '{"sentence": "\\ud800", "label": 1}\n', r"line 1: a text must be a string"),
        ("train.jsonl", '{"sentence": "a", "label": null}\n', r"line 1: label must be one of .*, but got None"),
        ("train.jsonl", '{"sentence": "a", "label": true}\n', r"line 1: label must be one of .*, but got True"),
        ("train.csv", 'sentence,label\na,1\n"b,0\n', r"train\.csv line 3: must be CSV"),
        ("train.csv", "sentence,label\na,1\nb\n", r"train\.csv line 3: must have 2 comma-separated fields"),
        ("train.parquet", "PAR1 no", r"train\.parquet: must be a parquet file"),
    ],
)
def test_other_formats_are_named_by_file_and_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    _sst2(tmp_path)
    (tmp_path / "sst2" / "train.tsv").unlink()
    (tmp_path / "sst2" / name).write_text(content, "utf-8")
    with pytest.raises(BadInput, match=message):
        tasks.load(tasks.get("sst2"), tmp_path)


def test_parquet_is_named_by_row(tmp_path: Path) -> None:
    _sst2(tmp_path)
    (tmp_path / "sst2" / "train.tsv").unlink()
    pq.write_table(pa.table({"sentence": ["a", "b"], "label": [1, -1]}), tmp_path / "sst2" / "train.parquet")
    secret = r"train\.parquet row 2: label must be one of .*, but got -1; use a split with labels: -1 stands for"
    with pytest.raises(BadInput, match=secret):
        tasks.load(tasks.get("sst2"), tmp_path)


def test_more_than_a_few_broken_rows_are_not_left_out(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    _write(tmp_path / "qqp", "train.tsv", [header, *["1\t2\tcut"] * 33])
    _write(tmp_path / "qqp", "dev.tsv", [header, "1\t2\t3\ta\tb\t0"])
    with pytest.raises(BadInput, match=r"train\.tsv line 34: must have 6 tab-separated fields .*, but got 3"):
        tasks.load(tasks.get("qqp"), tmp_path)


def test_a_missing_file_of_a_task_directory_is_bad_input(tmp_path: Path) -> None:
    _sst2(tmp_path)
    (tmp_path / "sst2" / "dev.tsv").unlink()
    with pytest.raises(BadInput, match=r"sst2: must hold dev\.tsv \(or \.parquet, \.csv, \.jsonl\)"):
        tasks.load(tasks.get("sst2"), tmp_path)


def test_a_data_directory_that_does_not_exist_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--data-dir: must be a directory, but got .*nowhere; mend"):
        tasks.load(tasks.get("sst2"), tmp_path / "nowhere")


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"--task: .* but got 'sst-2'; did you mean 'sst2'"):
        tasks.get("sst-2", where="--task")


CUSTOM = """
labels = ["no", "yes", "maybe"]
[columns]
text = ["question", "reply"]
label = "verdict"
[files]
train = "train.csv"
eval = "more/dev.jsonl"
"""


def _custom(root: Path, toml: str = CUSTOM) -> str:
    (root / "more").mkdir(exist_ok=True)
    (root / "My Answers.toml").write_text(toml)
    (root / "train.csv").write_text("verdict,question,reply\nyes,Ready?,Yes.\n2,Sure?,Hm.\n")
    row = {"question": "Now?", "reply": "No.", "verdict": 0}
    (root / "more" / "dev.jsonl").write_text(json.dumps(row) + "\n")
    return str(root / "My Answers.toml")


def test_a_custom_task_is_read_beside_its_toml(tmp_path: Path) -> None:
    task = tasks.get(_custom(tmp_path))
    assert (task.name, task.labels, task.metric) == ("my-answers", ("no", "yes", "maybe"), "accuracy")
    data = tasks.load(task, None)
    assert _examples(data.train) == [(("Ready?", "Yes."), 1), (("Sure?", "Hm."), 2)]
    assert _examples(data.eval) == [(("Now?", "No."), 0)]


def test_labels_that_are_numbers_are_names_and_not_indices(tmp_path: Path) -> None:
    toml = 'labels = [1, 2]\n[files]\ntrain = "a.tsv"\neval = "a.tsv"\n'
    (tmp_path / "stars.toml").write_text(toml)
    (tmp_path / "a.tsv").write_text("text\tlabel\ngood\t2\nbad\t1\n")
    task = tasks.get(str(tmp_path / "stars.toml"))
    assert tasks.load(task, None).train.labels.tolist() == [1, 0]
    (tmp_path / "a.tsv").write_text("text\tlabel\ngood\t0\n")
    with pytest.raises(BadInput, match=r"a\.tsv line 2: label must be one of 1, 2, but got '0'"):
        tasks.load(task, None)


def test_a_custom_tsv_without_a_header_line(tmp_path: Path) -> None:
    toml = (
        'labels = ["b", "g"]\n[columns]\nheader = ["id", "text", "label"]\n[files]\ntrain = "a.tsv"\neval = "a.tsv"\n'
    )
    (tmp_path / "t.toml").write_text(toml)
    (tmp_path / "a.tsv").write_text("1\tgood\tg\n")
    assert _examples(tasks.load(tasks.get(str(tmp_path / "t.toml")), None).eval) == [(("good",), 1)]


def test_a_custom_task_may_name_a_hub_data_set(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('labels = ["a", "b"]\n[hub]\nid = "owner/set"\neval = "test"\n')
    task = tasks.get(str(tmp_path / "t.toml"))
    assert (task.hub_id, task.hub_config, task.train_split, task.eval_split) == ("owner/set", None, "train", "test")


def _without(line: str) -> Callable[[str], str]:
    return lambda toml: toml.replace(line, "")


def _with(old: str, new: str) -> Callable[[str], str]:
    return lambda toml: toml.replace(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without('labels = ["no", "yes", "maybe"]'), "labels: must be given"),
        (_with('["no", "yes", "maybe"]', '["no"]'), "labels: must name at least two classes"),
        (_with('["no", "yes", "maybe"]', '["no", "no"]'), "labels: must not repeat a name"),
        (_with("labels", 'metric = "f1"\nlabels'), "metric: f1 needs two labels, but got 3"),
        (_with("labels", 'metric = "eval_loss"\nlabels'), "metric: must be a score of classification"),
        (_with("labels", 'metric = "acc"\nlabels'), "metric: must be a known metric, but got 'acc'"),
        (_with("labels", 'name = "../up"\nlabels'), "name: a name must be 1 to 100 characters"),
        (_with("labels", "colour = 1\nlabels"), r"toml colour: must be a known key; known: columns, default_model"),
        (_with("label = ", "lable = "), r"toml \[columns\].lable: must be a known key; known: header, label, text"),
        (_with('["question", "reply"]', '["a", "b", "c"]'), r"\[columns\].text: must be one or two columns"),
        (_with('["question", "reply"]', "7"), r"\[columns\].text: must be a list of texts, but got 7"),
        (_with('"train.csv"', '"gone.csv"'), r"\[files\].train: must be a file, but got .*gone\.csv"),
        (_without('train = "train.csv"'), r"\[files\].train: must be given"),
        (_with("[files]", "[hub]"), r"\[hub\].id: must be given"),
        (_with("[files]", "["), "toml: must be TOML"),
        (lambda toml: toml.partition("[files]")[0], r"must have one of \[files\] and \[hub\], but got neither"),
    ],
)
def test_a_bad_task_file_names_the_key(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        tasks.get(_custom(tmp_path, change(CUSTOM)))


def test_a_task_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--task: the task file must be readable, but got .*no\.toml"):
        tasks.get(str(tmp_path / "no.toml"), where="--task")


@pytest.mark.skipif(REAL is None, reason="LORASWEEP_DATA is not set")
@pytest.mark.parametrize(("name", "n_train", "n_eval"), [("sst2", 67_349, 872), ("cola", 8_551, 1_043)])
def test_real_glue_has_the_published_counts(name: str, n_train: int, n_eval: int) -> None:
    data = tasks.load(tasks.get(name), Path(str(REAL)))
    assert (len(data.train), len(data.eval)) == (n_train, n_eval)


@pytest.mark.skipif(REAL is None, reason="LORASWEEP_DATA is not set")
def test_real_mrpc_loses_no_row_to_quotes_or_the_byte_order_mark() -> None:
    data = tasks.load(tasks.get("mrpc"), Path(str(REAL)))
    n_lines = len((Path(str(REAL)) / "mrpc" / "train.tsv").read_bytes().strip().split(b"\n"))
    assert (len(data.train), len(data.eval)) == (n_lines - 1, 408)
    assert any(text.count('"') == 1 for text in data.train.texts)
    # Two thirds of the pairs are paraphrases: always "equivalent" scores .68 on the development set.
    assert data.eval.labels.mean() == pytest.approx(0.684, abs=5e-4)
