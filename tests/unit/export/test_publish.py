"""A study as a data set: `datasets` reads the folder, the Hub gets that folder and nothing before it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import api, cli, store

SMALL: dict[str, Any] = {
    "task": "demo", "methods": ["lora", "lora+"], "eta_A": [1e-3, 4e-3], "lr_ratio": [4, 8], "rank": 2, "steps": 2,
    "seeds": [0], "n_select": 0, "max_length": 8,
}  # fmt: skip


class Hub:
    """Records what a client of the Hub is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: set[str] = set()

    def __call__(self, **_: Any) -> Hub:
        return self

    def create_repo(self, repo: str, **given: Any) -> None:
        self.calls.append(("create_repo", {"repo_id": repo, **given}))

    def upload_folder(self, **given: Any) -> str:
        folder = Path(given.pop("folder_path"))
        self.files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        self.calls.append(("upload_folder", given))
        return f"https://hub/datasets/{given['repo_id']}"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("results")
    api.sweep(**SMALL, results_dir=directory, progress=False)
    return directory


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    import huggingface_hub

    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", made)
    return made


def test_datasets_reads_the_folder(results: Path, tmp_path: Path, hub: Hub) -> None:
    from datasets import load_dataset

    target = tmp_path / "published"
    assert cli.main(["publish", f"--to={target}", f"--results-dir={results}"]) == 0
    rows = load_dataset(str(target), split="train", cache_dir=str(tmp_path / "cache"))
    stored = store.load(results / "demo-tiny-roberta")
    assert sorted(rows["trial_id"]) == sorted(stored.column("trial_id").to_pylist())
    assert rows.column_names == stored.column_names
    assert hub.calls == []


def test_the_card_tells_the_study_and_every_file_it_names_is_there(results: Path, tmp_path: Path) -> None:
    target = tmp_path / "published"
    assert cli.main(["publish", f"--to={target}", f"--results-dir={results}"]) == 0
    card = (target / "README.md").read_text("utf-8")
    _, head, text = card.split("---\n", 2)
    (config,) = yaml.safe_load(head)["configs"]
    assert (target / config["data_files"][0]["path"]).is_file()
    assert (target / "report.html").is_file()
    images = [line.partition("](")[2][:-1] for line in text.splitlines() if line.startswith("![")]
    assert images
    assert all((target / image).is_file() for image in images)
    assert "lora+" in text
    assert "[grid.lora]" in text
    assert str(results) not in card


def test_the_hub_gets_the_same_folder(results: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--to=hf://datasets/me/rows", "--private", f"--results-dir={results}"]
    assert cli.main(["publish", *options]) == 0
    (made, first), (sent, second) = hub.calls
    assert (made, sent) == ("create_repo", "upload_folder")
    assert first == {"repo_id": "me/rows", "repo_type": "dataset", "private": True, "exist_ok": True}
    assert (second["repo_id"], second["repo_type"]) == ("me/rows", "dataset")
    assert {"README.md", "trials.parquet", "report.html"} <= hub.files
    assert "https://hub/datasets/me/rows" in capsys.readouterr().out


def test_a_hub_that_refuses_is_one_line(
    results: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no token")

    monkeypatch.setattr(hub, "create_repo", refuse)
    assert cli.main(["publish", "--to=hf://datasets/me/rows", f"--results-dir={results}"]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # figures that are left out are told before
    assert "hf://datasets/me/rows: must take the data set, but got OSError: no token" in line


@pytest.mark.parametrize("to", ["hf://models/me/rows", "hf://datasets/rows", "s3://bucket/rows", "hf://datasets/a/b/c"])
def test_another_place_is_refused(to: str, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", f"--to={to}", f"--results-dir={results}"]) == 2
    assert "must be a directory or hf://datasets/user/name" in capsys.readouterr().err


def test_a_directory_with_files_is_left_alone(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert cli.main(["publish", f"--to={tmp_path}", f"--results-dir={results}"]) == 2
    assert "must not be there yet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
