"""The embedded demo: what the grammar says, what the data is, and that the shipped weights are what they claim."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import minimize
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from bench import models, tasks
from bench.data.splits import Split
from bench.embedded.demo import corpus, grammar, pretrain, words
from bench.embedded.pretraining import learning_rate

MODEL_DIR = Path(pretrain.__file__).parent / "tiny-roberta"
POSITIVE = frozenset(words.POSITIVE_ADJECTIVES + words.POSITIVE_VERBS + words.POSITIVE_NOUNS)
NEGATIVE = frozenset(words.NEGATIVE_ADJECTIVES + words.NEGATIVE_VERBS + words.NEGATIVE_NOUNS)
NEGATION = re.compile(r"\b(not|never|hardly|scarcely|far from|by no means|anything but|in no way|cannot|no)\b")
REPORT = re.compile(rf"(my \w+|{'|'.join(words.CROWDS)}) ({'|'.join(words.REPORTS)})\b")
SPLITS = grammar.generate_splits()


def clause_polarity(clause: str) -> int | None:
    """Read one clause by hand-made rules: None where it says nothing or only reports what somebody else said."""
    signs = {(word in POSITIVE) - (word in NEGATIVE) for word in clause.split()} - {0}
    if not signs or REPORT.match(clause):
        return None
    (sign,) = signs
    return -sign if NEGATION.search(clause) else sign


def sentence_polarity(sentence: str) -> int | None:
    """Read one sentence: which clause counts is decided by its connective."""
    report, _, stance = sentence.rpartition(" , ")
    if stance in words.AGREEING + words.DISAGREEING:
        said = clause_polarity(REPORT.sub("", report))
        assert said is not None
        return said if stance in words.AGREEING else -said
    if sentence.split()[0] in words.FIRST_YIELDS:
        return clause_polarity(sentence.split(" , ")[1])
    if then := re.split(r" , (?:but|yet) ", sentence)[1:]:
        return clause_polarity(then[0])
    main = re.split(r" , (?:even though|although|though) ", sentence)[0]
    if REPORT.match(main):
        return None
    signs = {clause_polarity(clause) for clause in main.split(" and ")} - {None}
    return signs.pop() if len(signs) == 1 else None


def polarity(text: str) -> int:
    """Read a whole review; exactly one of its sentences decides."""
    (sign,) = [s for s in map(sentence_polarity, text.removesuffix(" .").split(" . ")) if s is not None]
    return sign


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("the plot is gripping .", 1),
        ("the plot is not gripping .", -1),
        ("the plot was never dull .", 1),
        ("we hardly enjoy its ending .", -1),
        ("it was anything but a triumph .", -1),
        ("it is no fiasco .", 1),
        ("the cast seems terribly good .", 1),
        ("the cast is superb , but the plot is dull .", -1),
        ("although the cast is superb , the plot is dull .", -1),
        ("the cast is superb , although the plot is dull .", 1),
        ("the cast is superb , yet i do not despise the plot .", 1),
        ("while the cast is not superb , the plot is far from dull .", 1),
        ("critics said that the film is awful . i adore the film .", 1),
        ("i adore the film , though critics said that the film is awful .", 1),
        ("critics said that the film is awful , and i agree .", -1),
        ("critics said that the film is not awful , and i agree .", 1),
        ("my sister said the film is a gem , but i disagree .", -1),
        ("my sister said the film is no gem , but i disagree .", 1),
        ("fans felt it was a joy . although the tone is fresh , the pacing is a mess .", -1),
        ("the lamp is not red . the camera looks great . it was not great .", None),
        ("the plot is weak and we dislike the cast . it ends in rome .", -1),
    ],
)
def test_hand_written_reviews_read_as_a_person_would_read_them(text: str, sign: int | None) -> None:
    if sign is None:  # the reader used below refuses what the grammar never says: two sentences that decide
        with pytest.raises(ValueError, match="too many values"):
            polarity(text)
    else:
        assert polarity(text) == sign


def test_every_generated_text_says_what_its_noiseless_label_says() -> None:
    for split, labels in zip(SPLITS, grammar.true_labels(), strict=True):
        read = [int(polarity(text) == 1) for text in split.texts]
        np.testing.assert_array_equal(read, labels)


def test_exactly_one_label_in_twenty_is_wrong_in_each_class() -> None:
    for split, truth in zip(SPLITS, grammar.true_labels(), strict=True):
        assert split.labels.mean() == truth.mean() == 0.5
        for label in (0, 1):
            assert (split.labels[truth == label] != label).mean() == pytest.approx(0.05, abs=1e-12)


def test_no_text_occurs_twice_and_lengths_are_bounded() -> None:
    train, evaluation = SPLITS
    assert (len(train), len(evaluation)) == (4_000, 1_000)
    assert len({*train.texts, *evaluation.texts}) == 5_000
    n_words = np.array([len(text.split()) for split in SPLITS for text in split.texts])
    assert n_words.max() <= 38
    assert 17 < n_words.mean() < 20


def test_the_data_is_pinned_and_depends_on_the_seed() -> None:
    def digest(splits: tuple[Split, Split]) -> str:
        lines = [f"{label}\t{text}" for s in splits for text, label in zip(s.texts, s.labels, strict=True)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    assert digest(grammar.generate_splits()) == digest(SPLITS) == "7efba3c944355f71"
    assert digest(grammar.generate_splits(1)) != digest(SPLITS)


def test_the_task_is_registered_and_its_hash_pinned() -> None:
    task = tasks.get("demo")
    data = tasks.load(task, None)
    assert (task.labels, task.metric, task.default_model) == (("negative", "positive"), "accuracy", "tiny-roberta")
    assert data.train.texts == SPLITS[0].texts
    np.testing.assert_array_equal(data.eval.labels, SPLITS[1].labels)
    assert data.data_hash == "11699f415738896a"


def test_vocabulary_is_small_and_without_double_meanings() -> None:
    spoken = {word for split in SPLITS for text in split.texts for word in text.split()}
    assert 500 < len(spoken) < 600
    assert not spoken & words.VERDICT_WORDS, "the verdict stands only in the pretraining text"
    assert len(POSITIVE) == len(NEGATIVE) == 107
    assert not POSITIVE & NEGATIVE
    neutral = {word for draw in [grammar.Draw(3)] for _ in range(3_000) for word in grammar.neutral(draw).split()}
    assert not neutral & (POSITIVE | NEGATIVE)


def bag_of_words(split: Split, index: dict[str, int]) -> npt.NDArray[np.float64]:
    counts = np.zeros((len(split), len(index)))
    for row, text in zip(counts, split.texts, strict=True):
        for word in text.split():
            if word in index:
                row[index[word]] += 1
    return counts


@pytest.mark.parametrize("l2", [1.0, 10.0, 100.0])
def test_words_alone_do_not_give_the_label(l2: float) -> None:
    index = {word: i for i, word in enumerate(sorted({w for t in SPLITS[0].texts for w in t.split()}))}
    train, evaluation = (bag_of_words(split, index) for split in SPLITS)
    signs = 2.0 * SPLITS[0].labels - 1

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        margin = signs * (train @ weights)
        slope = train.T @ (-signs / (1 + np.exp(margin)))
        return float(np.logaddexp(0, -margin).sum() + l2 / 2 * weights @ weights), slope + l2 * weights

    fitted = minimize(loss, np.zeros(len(index)), jac=True, method="L-BFGS-B").x
    assert ((train @ fitted > 0) == SPLITS[0].labels).mean() > 0.58, "the regression did not fit its own data"
    assert ((evaluation @ fitted > 0) == SPLITS[1].labels).mean() <= 0.65


def test_pretraining_text_holds_verdicts_but_none_of_the_task_texts() -> None:
    documents = corpus.documents(n=5_000, exclude=pretrain.task_texts())
    assert documents == corpus.documents(n=5_000, exclude=pretrain.task_texts())
    with_verdict = [d for d in documents if words.VERDICT_WORDS & set(d.split())]
    assert 0.90 < len(with_verdict) / len(documents) < 0.96  # 0.55 + 0.45 * 0.85
    joined = "\n".join(documents)
    assert not any(text in joined for text in SPLITS[1].texts[:300])


def test_excluded_reviews_are_left_out() -> None:
    reviews = {d for d in corpus.documents(n=500) if not words.VERDICT_WORDS & set(d.split())}
    assert reviews
    assert not reviews & set(corpus.documents(n=500, exclude=reviews))


def test_verdict_agrees_with_the_review_it_ends() -> None:
    ups = {up for _, up, _ in words.VERDICTS}
    for form, right, wrong in corpus.unseen_reviews(5, 500):
        text = corpus.without_verdict(form.format(right))
        assert not set(text.split()) & words.VERDICT_WORDS
        assert (right in ups) == (polarity(text) == 1)
        assert (wrong in ups) != (right in ups)
        assert corpus.without_verdict(text) == text


def test_shipped_directory_is_small_complete_and_safe() -> None:
    files = {path.name: path.stat().st_size for path in MODEL_DIR.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert sum(files.values()) <= 4_000_000
    assert models.get("tiny-roberta").directory == "embedded/demo/tiny-roberta"


def test_shipped_tokenizer_gives_one_token_a_word() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    lengths = np.array([len(ids) for split in SPLITS for ids in tokenizer(list(split.texts))["input_ids"]])
    n_words = np.array([len(text.split()) for split in SPLITS for text in split.texts])
    np.testing.assert_array_equal(lengths, n_words + 2)
    foreign = tokenizer("Unseen Wörds 7%")["input_ids"]
    assert tokenizer.decode(foreign, skip_special_tokens=True).strip() == "Unseen Wörds 7%"
    hole = tokenizer("thumbs <mask> .")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(hole) == ["<s>", "Ġthumbs", "<mask>", "Ġ.", "</s>"]
    pair = tokenizer("good", "bad")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(pair) == ["<s>", "Ġgood", "</s>", "</s>", "Ġbad", "</s>"]


def test_shipped_weights_load_as_a_classifier_of_which_only_the_head_is_new() -> None:
    classifier = AutoModelForSequenceClassification
    model, report = classifier.from_pretrained(MODEL_DIR, num_labels=2, output_loading_info=True)
    assert type(model).__name__ == "RobertaForSequenceClassification"
    assert all(name.startswith("classifier.") for name in report["missing_keys"])
    assert all(name.startswith("lm_head.") for name in report["unexpected_keys"])
    assert not report["mismatched_keys"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_shipped_weights_fill_in_the_verdict_of_unseen_reviews() -> None:
    model = AutoModelForMaskedLM.from_pretrained(MODEL_DIR)
    reviews = pretrain.probe_reviews(corpus.documents(exclude=pretrain.task_texts()), n=500)
    assert pretrain.probe(model, AutoTokenizer.from_pretrained(MODEL_DIR), reviews) >= 0.95


SHORT = pretrain.Pretraining(steps=6, batch_size=16, n_documents=600)


def short_run(settings: pretrain.Pretraining) -> tuple[list[float], dict[str, torch.Tensor]]:
    documents = corpus.documents(n=settings.n_documents)
    tokenizer = pretrain.train_tokenizer(documents)
    model = pretrain.new_model(tokenizer, settings.seed)
    losses = [loss for _, loss in pretrain.train(model, tokenizer, documents, settings)]
    return losses, model.state_dict()


def test_a_few_pretraining_steps_repeat_bit_by_bit() -> None:
    (losses, weights), (again, weights_again) = short_run(SHORT), short_run(SHORT)
    assert losses == again
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
    other, _ = short_run(replace(SHORT, seed=1))
    assert other != losses


@pytest.mark.slow
def test_pretraining_learns_polarity_of_words_before_anything_else() -> None:
    losses, _ = short_run(replace(SHORT, steps=300, batch_size=64, n_documents=20_000, easy_fraction=1.0))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])


def test_learning_rate_warms_up_holds_and_falls_to_zero() -> None:
    settings = pretrain.Pretraining(steps=1_000, warmup_steps=100, peak_learning_rate=1.0, decay_from=0.5)
    rates = [learning_rate(step, settings) for step in range(1_000)]
    assert rates[0] == pytest.approx(0.01)
    assert set(rates[99:501]) == {1.0}
    assert rates[750] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.002)


def test_masking_hides_verdicts_and_spares_special_tokens() -> None:
    documents = corpus.documents(n=2_000)
    tokenizer = pretrain.train_tokenizer(documents)
    ids = pretrain.pad(tokenizer(documents)["input_ids"], tokenizer.pad_token_id)
    verdicts = np.array(pretrain.verdict_token_ids(tokenizer))
    masked, chosen = pretrain.mask_batch(ids, verdicts, tokenizer, pretrain.Pretraining(), np.random.default_rng(0))
    is_verdict, special = np.isin(ids, verdicts), np.isin(ids, tokenizer.all_special_ids)
    assert chosen[is_verdict].mean() == pytest.approx(0.7, abs=0.05)
    assert not chosen[special].any()
    np.testing.assert_array_equal(masked == tokenizer.mask_token_id, chosen)
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
    hidden = (chosen & is_verdict).any(axis=1)
    word = ~is_verdict & ~special
    assert chosen[hidden][word[hidden]].mean() == pytest.approx(0.08, abs=0.01)
    assert chosen[~hidden][word[~hidden]].mean() == pytest.approx(0.2, abs=0.02)
