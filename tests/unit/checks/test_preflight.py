"""What a sweep refuses, plan and doctor refuse by the same line, before anything trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench import cli, study
from bench.checks import preflight
from bench.core.errors import BadInput
from bench.data.splits import Split

# Options of a study that no device or model can train as asked, and how the one line begins.
REFUSED = {
    "a target behind the cut": (["--study", "uuid", "--max-length", "16"], "max_length: a token of every target must"),
    "positions": (["--task", "demo", "--max-length", "5000"], "max_length: must be <= "),
    "modules": (["--task", "demo", "--target-modules", "nothing"], "target_modules: must name modules of the model"),
    "precision": (["--task", "demo", "--precision", "fp16"], "--precision: must be one the device computes in"),
    "task and model": (["--task", "uuid", "--model", "tiny-roberta"], "model: a causal language model must be a"),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # a CPU that computes in no half precision


def told(capsys: pytest.CaptureFixture[str], command: str, words: Sequence[str]) -> tuple[int, str]:
    """Return the exit code of a command, and what it says on stderr (doctor: on stdout)."""
    code = cli.main([command, *words, "--device", "cpu"])
    out, err = capsys.readouterr()
    return code, out if command == "doctor" else err


@pytest.mark.parametrize("kind", REFUSED)
def test_sweep_plan_and_doctor_refuse_by_the_same_line(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, begins = REFUSED[kind]
    words = [*options, "--profile", "quick", "--results-dir", str(tmp_path / "r")]
    code, line = told(capsys, "sweep", words)
    assert (code, line.startswith(begins), line.count("\n")) == (2, True, 1), line
    assert told(capsys, "plan", words) == (2, line)
    code, lines = told(capsys, "doctor", words)
    assert code == 1
    assert [one[17:] for one in lines.splitlines() if one.startswith("fails")] == [line.rstrip("\n")]
    assert not (tmp_path / "r").exists(), "nothing has trained"


def test_a_check_that_passed_is_kept_and_one_that_did_not_is_not() -> None:
    looks: list[str] = []

    def look(subject: preflight.Subject) -> str:
        looks.append("")
        if len(looks) < 2:
            raise BadInput("here", "must hold", way_out="mend it")
        return f"look {len(looks)}"

    subject = preflight.Subject(study.load("demo", profile="quick"))
    check = preflight.Check(name="one", look=look, kept_by=lambda subject: [1, "a"])
    with pytest.raises(BadInput, match="here: must hold; mend it"):
        preflight.passed(check, subject)
    assert [preflight.passed(check, subject) for _ in range(3)] == ["look 2"] * 3
    other = preflight.Check(name="one", look=look, kept_by=lambda subject: [1, "b"])
    assert preflight.passed(other, subject) == "look 3", "it rests on something else"
    (kept, _) = sorted((preflight.cache.cache_dir() / "checks").iterdir())
    kept.write_text("{")
    assert {preflight.passed(one, subject) for one in (check, other)} >= {"look 4"}, "a torn note counts as none"


def test_a_check_whose_needs_are_not_met_is_left_out() -> None:
    subject = preflight.Subject(study.load("demo", overrides={"model": "no-such/model"}, profile="quick"))
    found = {finding.name: finding.error is None for finding in preflight.look(subject)}
    assert found == {"data": True, "model": False}


def test_the_sample_holds_the_longest_texts_and_what_lies_between() -> None:
    n = 3 * preflight.SAMPLE
    texts = (*("a" * (1 + i % 7) for i in range(n - 1)), "a" * 1000)
    split = Split(texts=texts, pairs=texts, labels=np.arange(n))
    sample = preflight.sample_of(split)
    assert 0.9 * preflight.SAMPLE < len(sample) <= preflight.SAMPLE
    assert n - 1 in sample.labels
    assert list(sample.labels) == sorted(set(sample.labels)), "in the order of the file"
    assert sample.pairs == sample.texts == tuple(texts[i] for i in sample.labels)
    assert np.diff(sample.labels).max() < 20, "from everywhere"
    assert preflight.sample_of(sample) is sample
