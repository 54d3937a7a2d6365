"""What does not fit the model is found before anything trains: vocabulary, ids, positions, ranks, output layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from bench import cli, models, study
from bench.checks import preflight
from bench.core.errors import BadInput
from bench.engine import shapes
from bench.engine.shapes import check_shapes
from bench.models import Located, _outline
from bench.models._targets import candidates
from tests.support.exports import OPTIONS, decoder, four_classes, sums
from tests.support.tiny_models import WORDS, save_tiny, save_tokenizer

TEXTS = ["a good film", "not a bad plot .", "why ?"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASWEEP_CACHE", str(tmp_path / "cache"))


# --- vocabulary ---------------------------------------------------------------------------------------------------


def without_vocabulary(directory: Path) -> Path:
    """Take the vocabulary away and leave what says how the tokenizer is made."""
    for name in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"):
        (directory / name).unlink(missing_ok=True)
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 64}', encoding="utf-8")
    return directory


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("n_rows", [32, 200, 30_522])
def test_a_tokenizer_without_its_vocabulary_is_refused(model_type: str, n_rows: int, tmp_path: Path) -> None:
    located = models.locate(str(without_vocabulary(save_tiny(tmp_path / "m", model_type, vocab_size=n_rows))))
    with pytest.raises(BadInput, match=r"tokenizer of m: must (cover the .* embeddings|know the texts)") as caught:
        models.check_vocabulary(located, TEXTS)
    assert str(caught.value).count("\n") == 0


def test_another_language_s_vocabulary_is_refused(tmp_path: Path) -> None:
    located = models.locate(str(save_tiny(tmp_path / "m", vocab_size=20)))
    with pytest.raises(BadInput, match="must know the texts of the task, but got 100% unknown tokens"):
        models.check_vocabulary(located, ["ein guter Streifen", "schlecht"])
    models.check_vocabulary(located, [*TEXTS, "a good Streifen"])


def test_texts_that_give_no_token_are_refused(tmp_path: Path) -> None:
    """A byte-level vocabulary has no unknown token: what it lacks is dropped."""
    directory = save_tiny(tmp_path / "m", "roberta", vocab_size=23)
    located = models.locate(str(directory))
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    assert models.load_tokenizer(located).unk_token_id is not None
    tokenizer["model"]["unk_token"] = None
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    located = models.locate(str(directory))
    with pytest.raises(BadInput, match=r"must know the texts of the task, but got "):
        models.check_vocabulary(located, ["12345", "6789"])


@pytest.mark.parametrize("n_rows", [15, 16, 32, 60])
def test_padded_embeddings_and_toy_vocabularies_are_sound(n_rows: int, tmp_path: Path) -> None:
    located = models.locate(str(save_tiny(tmp_path / "m", vocab_size=n_rows)))
    assert models.check_vocabulary(located, TEXTS) == f"15 tokens for {n_rows} embeddings"


def test_ids_beyond_the_embeddings_are_refused_and_unused_tokens_are_not(tmp_path: Path) -> None:
    located = models.locate(str(save_tiny(tmp_path / "m", vocab_size=5 + len(WORDS) - 2)))  # no row for ? and .
    models.check_vocabulary(located, ["a good film"])
    with pytest.raises(BadInput, match=r"tokenizer of m: must give token ids below 13, .*but got 14"):
        models.check_vocabulary(located, TEXTS)
    models.check_ids(located, np.array([12]))
    models.check_ids(located, np.array([], dtype=np.int64))


@pytest.mark.parametrize("name", ["tiny-roberta", "tiny-decoder"])
def test_the_models_shipped_are_sound(name: str) -> None:
    located = models.locate(name)
    assert models.check_vocabulary(located, ["0123"]).endswith("embeddings")


# --- positions ----------------------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 24, "pad_token_id": 1,
}  # fmt: skip
POSITIONS: dict[str, dict[str, Any]] = {
    "bert": {}, "roberta": {}, "mpnet": {}, "camembert": {}, "electra": {}, "albert": {}, "megatron-bert": {},
    "layoutlm": {}, "nystromformer": {}, "mobilebert": {"embedding_size": 8},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16}, "gpt2": {"n_positions": 24}, "gpt_neo": {"num_layers": 1,
    "num_heads": 2, "attention_types": [[["global"], 1]]}, "xlm-roberta": {"pad_token_id": 0},
    "deberta-v2": {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p"]},
    "llama": {}, "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}  # fmt: skip


@pytest.mark.parametrize("model_type", POSITIONS)
def test_the_longest_input_is_the_longest_that_transformers_takes(model_type: str, tmp_path: Path) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **{**SIZES, **POSITIONS[model_type]})).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    longest = models.max_tokens(models.locate(str(tmp_path)))

    def runs(n: int) -> bool:
        try:
            with torch.no_grad():
                model(input_ids=torch.full((1, n), 5))
        except (IndexError, RuntimeError):
            return False
        return True

    if longest is None:
        assert runs(40)
    else:
        assert runs(longest)
        assert not runs(longest + 1)


# --- ranks and layers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_plan_doctor_and_sweep_refuse_what_mora_cannot_hold(
    model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """r_hat = floor(sqrt((16 + 16) rank)) must not exceed 16, on an architecture known by name and on another."""
    directory, module = decoder(tmp_path / "m", tied=False), "o_proj"
    if model_type == "phi3":
        config = AutoConfig.for_model("phi3", **{**SIZES, "num_key_value_heads": 2, "eos_token_id": 2})
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    options = ["--task", str(four_classes(tmp_path)), "--model", str(directory), "--methods", "mora", *OPTIONS,
               "--target-modules", module, "--results-dir", str(tmp_path / "r")]  # fmt: skip
    options[options.index("--ranks") + 1] = "2,12,4"
    lines = []
    for command in ("plan", "doctor", "sweep"):
        code = cli.main([command, *options])
        out, err = capsys.readouterr()
        assert code == (1 if command == "doctor" else 2)
        lines.append(next(line for line in (out + err).splitlines() if "r_hat" in line))
    assert lines[0] == lines[2]
    assert lines[1].endswith(lines[0])
    assert "self_attn.o_proj, but got r_hat=19 from rank=12; choose a smaller rank" in lines[0]
    assert not (tmp_path / "r").exists()


def test_an_architecture_without_a_classifier_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    directory = save_tiny(tmp_path / "m")
    config = {"model_type": "blip_2_qformer", "vocab_size": 32}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="model m: must load as a sequence classifier, but got blip_2_qformer"):
        check_shapes(models.locate(str(directory)), [], labels=("a", "b"))


DECODERS: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {}, "qwen2": {}, "gemma": {"head_dim": 8, "num_key_value_heads": 1},
    "opt": POSITIONS["opt"], "gpt2": {"n_positions": 24},
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", DECODERS)
def test_the_outline_of_a_language_model_has_its_output_layer(model_type: str, tied: bool, tmp_path: Path) -> None:
    own = {**SIZES, "bos_token_id": 0, "eos_token_id": 2, "tie_word_embeddings": tied, **DECODERS[model_type]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **own))
    model.save_pretrained(tmp_path)
    located = Located(name="m", directory=tmp_path, model_hash="", tokenizer_hash="", config={"model_type": model_type})
    found = _outline.outline(located, causal=True)
    assert found is not None
    expected = {m.name: (m.kind, m.output, m.in_features, m.out_features) for m in candidates(model)}
    assert {m.name: (m.kind, m.output, m.in_features, m.out_features) for m in found} == expected
    assert expected["lm_head"] == ("Linear", True, 16, 60)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt_neox"])
def test_an_output_layer_can_be_named_whatever_the_architecture(model_type: str, tmp_path: Path) -> None:
    directory = decoder(tmp_path / "m", tied=False)
    if model_type != "llama":
        config = AutoConfig.for_model(model_type, **{**SIZES, "vocab_size": 32, "bos_token_id": 0, "eos_token_id": 2})
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    module = {"llama": "q_proj", "phi3": "qkv_proj", "gpt_neox": "query_key_value"}[model_type]
    over = {"task": str(sums(tmp_path)), "model": str(directory), "methods": "lora", "eta_A": "1e-2", "n_select": "0",
            "target_modules": f"{module},lm_head", "max_length": "16", "device": "cpu"}  # fmt: skip
    found = {f.name: f for f in preflight.look(preflight.Subject(study.load(overrides=over)))}
    assert found["shapes"].error is None, found["shapes"].found
    assert found["shapes"].found == f"up to {_layers(directory) + 1} layers adapted"


def _layers(directory: Path) -> int:
    return int(json.loads((directory / "config.json").read_text())["num_hidden_layers"])


def test_a_pooler_that_the_checkpoint_lacks_is_head_in_the_model_without_weights_too(tmp_path: Path) -> None:
    for pooler in (True, False):
        located = models.locate(str(save_tiny(tmp_path / f"m{pooler}", pooler=pooler)))
        model = shapes._on_meta(located, 2)
        assert isinstance(model, AutoModelForSequenceClassification._model_mapping[type(model.config)])
        loaded = models.load_model(located, 2)
        assert set(shapes._head(model, _outline.tensors(located))) == set(loaded.full_names)
