"""The Hub as most users meet it: the real clients against a stand-in on loopback, its cache, and its silence."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.core.hub import ANSWER_SECONDS, GIVE_UP_SECONDS
from tests.support import hub_server
from tests.support.tiny_models import save_tiny

ROOT = Path(__file__).resolve().parents[3]
HANG_SECONDS = 1200  # ends a hang; nothing else depends on how long anything takes
MODEL, GLUE = "someone/tiny-bert", "nyu-mll/glue"
TRAIN = [{"sentence": f"a {word} film .", "label": i % 2, "idx": i} for i, word in enumerate(["good", "bad"] * 10)]
DEV = [{"sentence": "not very good", "label": 0, "idx": 0}, {"sentence": "a good plot", "label": 1, "idx": 1}]

# Finds a model and a task as a sweep does, and prints what came of it; LOAD also makes both ready to train.
FIND = """
import json, sys
from bench import models, tasks
from bench.core import hub
from bench.data import text
if len(sys.argv) > 3:  # a hub that answers is waited for as long as it takes
    hub.ANSWER_SECONDS = hub.GIVE_UP_SECONDS = float(sys.argv[3])
from bench.core.errors import BadInput
try:
    located = models.locate(sys.argv[1], where="--model")
    data = tasks.load(tasks.get(sys.argv[2]), None)
except BadInput as error:
    sys.exit(f"BadInput {error}")
found = {
    "model_hash": located.model_hash, "revision": located.revision, "data_hash": data.data_hash,
    "texts": data.train.texts, "labels": data.eval.labels.tolist(),
}
print(json.dumps(found))
"""
LOAD = f"""
{FIND}
encoded = text.encode(data, located, n_labels=2, metric="accuracy", max_length=16, n_select=0)
ready = {{"ids": encoded.train.ids.tolist(), "head": models.load_model(located, 2).head_names}}
print(json.dumps(found | ready))
"""


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    # The Hub's own files carry the label names in the schema, as `datasets` writes them.
    features = {
        "sentence": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["negative", "positive"], "_type": "ClassLabel"},
        "idx": {"dtype": "int32", "_type": "Value"},
    }
    schema = pa.schema(
        [("sentence", pa.string()), ("label", pa.int64()), ("idx", pa.int32())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), stream)
    return stream.getvalue()


def _card(configs: dict[str, list[str]]) -> bytes:
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [line for split in splits for line in (f"  - split: {split}", f"    path: {config}/{split}-*")]
    return "\n".join([*lines, "---", "# GLUE-shaped"]).encode()


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> hub_server.Repos:
    directory = save_tiny(tmp_path_factory.mktemp("hub") / "tiny-bert")
    model = {path.name: path.read_bytes() for path in directory.iterdir()}
    # What a real repository holds beside: none of it may be fetched.
    model |= {"pytorch_model.bin": b"pickle", "tf_model.h5": b"weights", "onnx/model.onnx": b"weights"}
    glue = {"README.md": _card({"sst2": ["train", "validation"]})}
    for split, rows in (("train", TRAIN), ("validation", DEV)):
        glue[f"sst2/{split}-00000-of-00001.parquet"] = _parquet(rows)
    pickled = {name: content for name, content in model.items() if not name.endswith(".safetensors")}
    return {("models", MODEL): model, ("models", "someone/pickled"): pickled, ("datasets", GLUE): glue}


@pytest.fixture(scope="module")
def hub(repos: hub_server.Repos) -> Iterator[tuple[str, list[str]]]:
    with hub_server.serve(repos) as served:
        yield served


def _start(
    home: Path,
    endpoint: str,
    model: str = MODEL,
    task: str = "sst2",
    *,
    code: str = FIND,
    patient: bool = True,
    **env: str,
) -> subprocess.Popen[str]:
    """Start a process of its own, because the clients read their settings when they are imported."""
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "LORASWEEP_CACHE": str(home / "own"),
        "HF_ENDPOINT": endpoint,
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", code, model, task, *([str(HANG_SECONDS)] if patient else [])]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=kept | own | env, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def _result(started: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for it and return what it printed last."""
    out, err = started.communicate(timeout=HANG_SECONDS)
    assert started.returncode == 0, err
    return dict(json.loads(out.splitlines()[-1]))


def _refusal(started: subprocess.Popen[str]) -> str:
    """Wait for it and return the one line of its BadInput."""
    _, err = started.communicate(timeout=HANG_SECONDS)
    assert started.returncode == 1
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("BadInput ")]
    return line.removeprefix("BadInput ")


def test_hub_then_cache(hub: tuple[str, list[str]], repos: hub_server.Repos, tmp_path: Path) -> None:
    endpoint, log = hub
    first = _result(_start(tmp_path, endpoint, code=LOAD))
    assert first["texts"] == [row["sentence"] for row in TRAIN]
    assert first["labels"] == [0, 1]
    assert first["ids"][:6] == [2, 8, 5, 7, 14, 3]
    assert first["head"] == ["classifier.weight", "classifier.bias"]
    assert first["revision"] == hub_server.commit_of(repos["models", MODEL])
    fetched = {line.rpartition("/")[2] for line in log if "/resolve/" in line and MODEL in line}
    assert "model.safetensors" in fetched
    assert not fetched & {"pytorch_model.bin", "tf_model.h5", "model.onnx"}

    asked = len(log)
    assert _result(_start(tmp_path, endpoint, code=LOAD, HF_HUB_OFFLINE="1")) == first
    # The cache comes before the Hub also where the Hub could be asked, or has fallen silent.
    found = {name: value for name, value in first.items() if name not in ("ids", "head")}
    with hub_server.silence() as nobody:
        assert [_result(_start(tmp_path, where)) for where in (endpoint, nobody[0])] == [found, found]
        assert nobody[1]() == 0, "the cache is there: nobody is asked"
    assert len(log) == asked


def test_a_hub_that_never_answers_is_asked_once_and_is_one_line(tmp_path: Path) -> None:
    """One question, given up by its own limit, is what keeps the wait short: the clients would ask for minutes."""
    assert ANSWER_SECONDS < GIVE_UP_SECONDS < 10
    local = str(save_tiny(tmp_path / "tiny"))
    with hub_server.silence() as (endpoint, n_asked):
        of_model = _refusal(_start(tmp_path, endpoint, patient=False))
        assert n_asked() == 1
        of_data = _refusal(_start(tmp_path, endpoint, local, patient=False))
        assert n_asked() == 2
    given_up = r"(ReadTimeout|no answer in 6 s)"
    assert re.match(f"--model: the Hub must give {MODEL}, but got {given_up}", of_model)
    assert re.match(f"task sst2: the Hub must give {GLUE}, but got {given_up}", of_data)
    for way_out in ("LORASWEEP_DATA", "--data-dir", "local directory"):
        assert way_out in of_model
        assert way_out in of_data


def test_a_hub_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with hub_server.silence() as (endpoint, _):
        pass  # the port is free again
    line = _refusal(_start(tmp_path, endpoint))
    assert line.startswith(f"--model: the Hub must give {MODEL}, but got ConnectError")


def test_offline_without_a_cache_says_so(tmp_path: Path) -> None:
    line = _refusal(_start(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1"))
    assert "HF_HUB_OFFLINE set and nothing in the Hugging Face cache" in line


def test_an_unknown_hub_id_is_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    line = _refusal(_start(tmp_path, hub[0], "someone/else"))
    assert line.startswith("--model: the Hub must give someone/else, but got RepositoryNotFoundError")


def test_a_hub_model_of_pickles_is_refused(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    assert "no model.safetensors in" in _refusal(_start(tmp_path, hub[0], "someone/pickled"))


def test_a_configuration_that_the_hub_lacks_is_one_line(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    line = _refusal(_start(tmp_path, hub[0], task="rte"))
    assert line.startswith(
        "task rte: the Hub must give nyu-mll/glue, but got ValueError: BuilderConfig 'rte' not found"
    )
