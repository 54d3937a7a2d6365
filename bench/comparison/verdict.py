"""A comparison in plain sentences, a null result as plainly as a gain. Pure; every number comes with n and interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.comparison.numbers import ArmResult, Comparison, Difference, SpeedUp, Target
from bench.methods import arm_label as label
from bench.stats import Interval

AS_POINTS = ("accuracy", "f1", "matthews_correlation", "char_accuracy", "exact_match")  # shown times 100
CLAIMED_FACTOR = 2.0  # LoRA+'s own claim: up to twice as fast (Hayou et al. 2024, arXiv:2402.12354, abstract)


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """Return the verdict: the set-up, a sentence for each difference, a sentence for each speed-up, cautions."""
    found = [_setting(comparison)]
    found += [_difference(d, comparison) for d in comparison.differences]
    if comparison.target is not None:
        target = comparison.target
        found += [_speed(s, target, comparison) for s in comparison.speed_ups]
    return (*found, *_cautions(comparison))


def shown(value: float | None, metric: str) -> str:
    """Return a score as it is printed: 94.84 for accuracy and its like, four digits for others."""
    if value is None:
        return "-"
    return f"{100 * value:.2f}" if metric in AS_POINTS else f"{value:.4f}"


def gap(value: float, metric: str) -> str:
    """Return a difference with its sign."""
    return f"{100 * value:+.2f}" if metric in AS_POINTS else f"{value:+.4f}"


def number(value: float) -> str:
    """Return a ratio or a number of steps in three digits, infinite in words."""
    return "infinite" if math.isinf(value) else f"{value:.3g}"


def _unit(metric: str) -> str:
    return " points" if metric in AS_POINTS else f" {metric}"


def _setting(c: Comparison) -> str:
    setup, n_cells = c.setup, c.arms[0].tuning.n_cells
    by = {arm.tuning.chosen_by for arm in c.arms}
    chosen = "training examples held out for it" if by == {"select_metric"} else "the evaluation split itself"
    scores = ", ".join(f"{label(arm.name)} {_mean(arm, setup.metric)}" for arm in c.arms)
    return (
        f"{setup.task} on {setup.model}: {n_cells} cells tuned for each method, chosen on {chosen}, run again with "
        f"{len(setup.fresh_seeds)} fresh seeds; {setup.metric}, mean +- standard error over seeds: {scores} "
        f"({', '.join(c.devices) or 'device unknown'})."
    )


def _mean(arm: ArmResult, metric: str) -> str:
    if arm.mean is None:
        return "diverged"
    spread = "" if arm.stderr_seeds is None else f" +- {shown(arm.stderr_seeds, metric)}"
    lost = f" ({arm.n_diverged} of {arm.n + arm.n_diverged} diverged)" if arm.n_diverged else ""
    return f"{shown(arm.mean, metric)}{spread}{lost}"


def _difference(d: Difference, c: Comparison) -> str:
    name, base, metric = label(d.arm), label(c.baseline), c.setup.metric
    if d.same_cell:
        return f"{name} against tuned {base}: no difference, for tuning chose the same cell for both."
    if d.mean is None or d.interval is None:
        return (
            f"{name} against tuned {base}: nothing can be said, for {d.n_left_out} of {len(d.values)} pairs diverged."
        )
    numbers = (
        f"{gap(d.mean, metric)}{_unit(metric)} ({c.level:.0%} interval {gap(d.interval.low, metric)} to "
        f"{gap(d.interval.high, metric)}, n = {d.n} paired seeds, sign-flip p = {d.p:.3g}, {d.p_holm:.3g} after Holm "
        f"over {len(c.family)})"
    )
    if d.claim == "none":
        return (
            f"{name} against tuned {base}: no difference can be claimed: {numbers}{_why(d, c)}{_detectable(d, metric)}."
        )
    return f"{name} is {d.claim} than tuned {base}: {numbers}{_examples(d)}."


def _why(d: Difference, c: Comparison) -> str:
    """Return why nothing is claimed, where the numbers alone would suggest it."""
    if d.attainable_p > c.alpha:
        return f"; {d.n} pairs could not have shown one"
    significant = d.p_holm <= c.alpha
    outside = d.interval is not None and d.interval.excludes(0)
    if significant and outside:
        return "; the method that would have won diverged with some seeds"
    return "; interval and test do not agree" if significant != outside else ""


def _detectable(d: Difference, metric: str) -> str:
    if not d.detectable:
        return ""
    return f"; a gap of {shown(d.detectable, metric)}{_unit(metric)} or more would probably (80 %) have been seen"


def _examples(d: Difference) -> str:
    """Return what McNemar's test says about the evaluation split: seeds alone cannot speak for other examples."""
    if d.examples is None:
        return ""
    e = d.examples
    counts = f"{e.arm_only} examples are right more often, {e.baseline_only} less often of {e.n}"
    far = "also beyond" if e.p <= 0.05 else "not shown beyond"
    return f"; {counts} (McNemar p = {e.p:.2g}: {far} these examples)"


def _speed(s: SpeedUp, target: Target, c: Comparison) -> str:
    arms = {arm.name: arm.reach for arm in c.arms}
    own, base, name, against = arms[s.arm], arms[c.baseline], label(s.arm), label(c.baseline)
    aim = f"tuned {against}'s final {c.setup.metric} ({shown(target.value, c.setup.metric)})"
    missed = f"{name} {own.n_missed} and {against} {base.n_missed} of {s.n} runs never reach it"
    if s.steps is None:
        return f"{name}, time to {aim}: nothing can be said, since at the median neither reaches it; {missed}."
    ends = f"{c.level:.0%} interval {_ends(s.steps_interval)}, n = {s.n}"
    if math.isinf(s.steps):  # the baseline's median run misses: a ratio of medians would read like a claim
        counts = f"{number(own.median_steps)} steps at the median, {against} never"
        told = f"reaches {aim} in {counts}: no factor can be given"
    elif s.steps == 0:  # its own does
        told = f"does not reach {aim} at the median, {against} does in {number(base.median_steps)} steps"
    else:
        counts = f"{number(own.median_steps)} against {number(base.median_steps)} steps at the median"
        told = f"reaches {aim} in {counts}: {number(s.steps)} times as fast in steps"
    return f"{name} {told} ({ends}; {missed}); {_answer(s)}."


def _answer(s: SpeedUp) -> str:
    ends = s.steps_interval
    steps = "no difference in steps can be claimed"
    if ends.low > 1:
        factor = f"{CLAIMED_FACTOR:g}x"
        told = f"{factor} is reached" if ends.low >= CLAIMED_FACTOR else f"{factor} is neither shown nor excluded"
        steps = f"faster, and {factor} is excluded" if ends.high < CLAIMED_FACTOR else f"faster, and {told}"
    elif ends.high < 1:
        steps = "slower"
    if s.seconds is None or s.seconds_interval is None:
        return f"{steps}; seconds need isolated timing: run make speed"
    times = "no factor" if math.isinf(s.seconds) or s.seconds == 0 else f"{number(s.seconds)} times as fast"
    return f"{steps}; in seconds {times} ({_ends(s.seconds_interval)})"


def _ends(interval: Interval) -> str:
    return f"{number(interval.low)} to {number(interval.high)}"


def _cautions(c: Comparison) -> Sequence[str]:
    found = [
        f"Caution: {label(arm.name)}'s best cell lies on its grid's border ({'; '.join(arm.tuning.on_border)}), so it "
        "may not be tuned."
        for arm in c.arms
        if arm.tuning.on_border
    ]
    if any(arm.tuning.chosen_by != "select_metric" for arm in c.arms):
        found.append(
            "Caution: cells were chosen on the split that is reported (n_select = 0), which flatters every method."
        )
    if len(c.source_hashes) > 1:
        found.append(
            f"Caution: the rows come from {len(c.source_hashes)} versions of the code; --rerun-stale repeats them."
        )
    if len(c.devices) > 1:
        found.append(f"Caution: the rows come from {len(c.devices)} devices.")
    return found
