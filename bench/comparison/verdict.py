"""A comparison in plain sentences, a null result as plainly as a gain. Pure; every number comes with n and interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.comparison.numbers import ArmResult, Comparison, Difference, SpeedUp, Target
from bench.comparison.rule import MIN_RUNS
from bench.core.stats import Interval
from bench.methods import label
from bench.study import varying

AS_POINTS = ("accuracy", "f1", "matthews_correlation", "char_accuracy", "exact_match")  # shown times 100
Paragraph = tuple[str, ...]  # what it begins with, and the items of its list
CLAIMED_FACTOR = 2.0  # LoRA+'s own claim: up to twice as fast (Hayou et al. 2024, arXiv:2402.12354, abstract)


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """Return the verdict: the set-up, a sentence for each difference, a sentence for each speed-up, cautions."""
    c = comparison
    found = [_setting(c), *(f"{_difference(d, c)}." for d in c.differences)]
    if c.target is not None:
        found += [f"{_speed(s, c.target, c)}." for s in c.speed_ups]
    return (*found, *_cautions(c))


def headline(comparison: Comparison) -> str:
    """Return the verdict in a few words, without numbers: what the comparison claims, or nothing."""
    c = comparison
    base = label(c.baseline)
    claimed = [f"{label(d.arm)} as tuned is {d.claim}" for d in c.differences if d.claim != "none"]
    if not claimed:
        return f"No method as tuned here can be said to differ from tuned {base}."
    rest = "" if len(claimed) == len(c.differences) else "; for no other method can a difference be claimed"
    return f"Against tuned {base}, {' and '.join(claimed)}{rest}."


def short(comparison: Comparison) -> tuple[Paragraph, Paragraph, Paragraph]:
    """Return three paragraphs with numbers: differences, speed-ups, and how far this goes."""
    c = comparison
    base, n_cells, n = label(c.baseline), c.arms[0].tuning.n_cells, len(c.setup.fresh_seeds)
    parts = (_difference(d, c, briefly=True) for d in c.differences)
    first = (f"Against {base}, with {n_cells} tuning cells for each method and {n} fresh seeds:", *parts)
    if c.target is None or not c.speed_ups:
        return first, (f"No speed-up can be given, for tuned {base} has no score to reach.",), _limits(c)
    target = f"{c.setup.metric.replace('_', ' ')} of {shown(c.target.value, c.setup.metric)}"
    return first, (f"To reach tuned {base}'s {target}:", *(_speed_briefly(s, c) for s in c.speed_ups)), _limits(c)


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


def cell(arm: ArmResult, c: Comparison) -> str:
    """Return which cell an arm is: LoRA+ as tuned (eta_A 0.0004, ratio 4). Claims are about cells, not methods.

    What else was swept is named, too.
    """
    ratio = arm.settings.get("lr_ratio")
    parts = [f"eta_A {arm.settings['eta_A']:.3g}"] + ([f"ratio {ratio:.3g}"] if ratio not in (None, 1) else [])
    parts += [varying.named(name, value) for name, value in swept(arm, c) if value is not None]
    return f"{label(arm.name)} as tuned ({', '.join(parts)})"


def swept(arm: ArmResult, c: Comparison) -> tuple[tuple[str, Any], ...]:
    """Return what an arm's cell has of the settings swept beside method and rates; None where it reads none."""
    found = {**arm.settings, "method": arm.settings.get("method", arm.name)}
    return tuple((name, varying.value(found, name)) for name in c.setup.varying)


def collapses(arm: ArmResult) -> str:
    """Return how many runs of an arm's cell collapsed or diverged: 1 of 14."""
    return f"{arm.history.every.n_collapsed} of {arm.history.every.n}"


def _arm(c: Comparison, name: str) -> ArmResult:
    return next(arm for arm in c.arms if arm.name == name)


def _setting(c: Comparison) -> str:
    setup, n_cells = c.setup, c.arms[0].tuning.n_cells
    by = {arm.tuning.chosen_by for arm in c.arms}
    chosen = "training examples held out for it" if by == {"select_metric"} else "the evaluation split itself"
    top = setup.top
    again = "" if top is None else f" (the best {top.n_cells} again with {len(top.seeds)} more seeds)"
    n_stopped = min(arm.tuning.n_stopped for arm in c.arms)
    again += f" ({n_stopped} of each method's stopped early)" if n_stopped else ""
    scores = ", ".join(f"{label(arm.name)} {_mean(arm, setup.metric)}" for arm in c.arms)
    return (
        f"{setup.task} on {setup.model}: {n_cells} cells tuned for each method with {len(setup.tuning_seeds)} "
        f"seed{'s' * (len(setup.tuning_seeds) > 1)}{again}, chosen on {chosen}, one cell of each run again with "
        f"{len(setup.fresh_seeds)} fresh seeds, which are what is compared; {setup.metric}, mean +- standard error "
        f"over seeds: {scores} ({', '.join(c.devices) or 'device unknown'})."
    )


def _mean(arm: ArmResult, metric: str) -> str:
    fell = f" ({collapses(arm)} runs collapsed)" if arm.history.every.n_collapsed else ""
    if arm.mean is None:
        return "diverged"
    spread = "" if arm.stderr_seeds is None else f" +- {shown(arm.stderr_seeds, metric)}"
    return f"{shown(arm.mean, metric)}{spread}{fell}"


def _difference(d: Difference, c: Comparison, *, briefly: bool = False) -> str:
    """Return what is said of one difference: the one place where it is put into words."""
    own, base = _arm(c, d.arm), _arm(c, c.baseline)
    name, against = (label(d.arm), label(c.baseline)) if briefly else (cell(own, c), cell(base, c))
    if d.same_cell:
        return f"{label(d.arm)} is no different from {label(c.baseline)} here, for tuning chose the same cell for both"
    if d.mean is None:
        return f"nothing can be said about {name}, for {d.n_left_out} of {len(d.values)} pairs diverged"
    numbers = _numbers(d, c, briefly=briefly)
    if briefly and d.claim == "none":
        return f"{name} shows no difference that can be claimed ({numbers}){_why(d, c)}"
    if briefly:
        return f"{name} as tuned is {d.claim} ({numbers})"
    fell = f"; collapsed: {label(d.arm)} {collapses(own)}, {label(c.baseline)} {collapses(base)} runs"
    if d.claim == "none":
        detectable = _detectable(d, c)
        return f"{name} against {against}: no difference can be claimed: {numbers}{fell}{_why(d, c)}{detectable}"
    return f"{name} is {d.claim} than {against}: {numbers}{fell}{_examples(d, c)}"


def _numbers(d: Difference, c: Comparison, *, briefly: bool) -> str:
    metric, ends = c.setup.metric, d.interval
    mean = f"{gap(d.mean or 0.0, metric)}{_unit(metric)}"
    span = "no interval from so few" if ends is None else (
        f"{c.level:.0%} interval {gap(ends.low, metric)} to {gap(ends.high, metric)}")  # fmt: skip
    if briefly:
        return f"{mean}, {span}, p = {d.p_holm:.2g} after Holm, n = {d.n}"
    wins = "" if d.outperforms is None else f", the better one in {d.outperforms:.0%} of the seeds"
    return (
        f"{mean} ({span}, n = {d.n} paired seeds{wins}, sign-flip p = {d.p:.3g}, {d.p_holm:.3g} after Holm over "
        f"{len(c.family)})"
    )


def _why(d: Difference | SpeedUp, c: Comparison) -> str:
    """Return why nothing is claimed, where the numbers alone would suggest it."""
    n_zeros = d.n_zeros if isinstance(d, Difference) else d.n_ties
    if d.attainable_p > c.alpha:
        ties = f", {n_zeros} of them without a difference," if n_zeros else ""
        return f"; {d.n} pairs{ties} could not have shown one (smallest p {d.attainable_p:.2g})"
    if not d.withheld:
        return ""
    sign = 1 if c.setup.higher_is_better else -1
    ahead = sign * (d.mean or 0.0) > 0 if isinstance(d, Difference) else 2 * d.n_faster + d.n_ties > d.n
    winner, rival = (_arm(c, d.arm), _arm(c, c.baseline)) if ahead else (_arm(c, c.baseline), _arm(c, d.arm))
    if d.withheld == "collapses":
        return (
            f"; the test rejects, but {label(winner.name)}'s cell collapsed or diverged in {collapses(winner)} runs "
            f"and {label(rival.name)}'s in {collapses(rival)}"
        )
    return (
        f"; the test rejects, but {winner.history.n_unseen} runs of {label(winner.name)}'s cell are too few to know "
        f"that it does not collapse now and then ({MIN_RUNS} are needed)"
    )


def _detectable(d: Difference, c: Comparison) -> str:
    if not d.detectable:
        return ""
    metric = c.setup.metric
    return (
        f"; a true gap of {shown(d.detectable, metric)}{_unit(metric)} or more would have been claimed with a power of "
        "80 %, after Holm"
    )


def _examples(d: Difference, c: Comparison) -> str:
    """Return whether other evaluation examples would say the same, which seeds alone cannot tell."""
    e = d.examples
    if e is None or e.stderr is None:
        return ""
    # Another metric may move the other way than the share of right examples, and nothing is then shown.
    same_way = e.mean > 0 if d.claim == "better" else e.mean < 0
    far = "also beyond" if e.p <= c.alpha and same_way else "not shown beyond"
    share = "" if e.stderr == 0 else f", {e.mean / e.stderr:+.2f} standard errors over the examples"
    counts = f"{e.arm_only} examples are right in more seeds, {e.baseline_only} in fewer of {e.n}"
    return f"; {counts}{share} (sign-flip over examples p = {e.p:.2g}: {far} these examples)"


def _speed(s: SpeedUp, target: Target, c: Comparison) -> str:
    own, base = _arm(c, s.arm).reach, _arm(c, c.baseline).reach
    name, against = label(s.arm), label(c.baseline)
    aim = f"tuned {against}'s final {c.setup.metric} ({shown(target.value, c.setup.metric)})"
    missed = f"{name} {own.n_missed} and {against} {base.n_missed} of {s.n} runs never reach it"
    if s.steps is None:
        return f"{name} as tuned, time to {aim}: nothing can be said, since at the median neither reaches it; {missed}"
    if math.isinf(s.steps):  # the baseline's median run misses: a ratio of medians would read like a claim
        counts = f"{number(own.median_steps)} steps at the median, {against} never"
        told = f"reaches {aim} in {counts}: no factor can be given"
    elif s.steps == 0:  # its own does
        told = f"does not reach {aim} at the median, {against} does in {number(base.median_steps)} steps"
    else:
        counts = f"{number(own.median_steps)} against {number(base.median_steps)} steps at the median"
        told = f"reaches {aim} in {counts}: {number(s.steps)} times as fast in steps"
    return f"{name} as tuned {told} ({_speed_numbers(s, c)}; {missed}); {_answer(s)}{_why(s, c)}; {_seconds(s)}"


def _speed_numbers(s: SpeedUp, c: Comparison) -> str:
    ends = f"{c.level:.0%} interval {_ends(s.steps_interval)}, n = {s.n}"
    return f"{ends}, fewer steps in {s.n_faster}, as many in {s.n_ties}, sign test p = {s.p_holm:.2g} after Holm"


def _speed_briefly(s: SpeedUp, c: Comparison) -> str:
    name, against = label(s.arm), label(c.baseline)
    if s.steps is None:
        return f"{name}: nothing can be said, since at the median neither method reaches it"
    ends = f"{c.level:.0%} interval {_ends(s.steps_interval)}, n = {s.n}, p = {s.p_holm:.2g} after Holm"
    if math.isinf(s.steps) or s.steps == 0:
        reached, never = ("its", f"{against}'s never") if s.steps else (f"{against}'s", "its own never")
        return f"{name}: {_answer(s)}: {reached} median run reaches it and {never} does, so there is no factor ({ends})"
    seconds = "its seconds not measured in isolation" if s.seconds is None else _seconds(s)
    return f"{name} takes 1/{number(s.steps)} of the steps ({ends}), {_answer(s)}, {seconds}"


def _answer(s: SpeedUp) -> str:
    """Return what the sign test claims; of the size, which the interval tells, only where LoRA+'s claim lies."""
    if s.claim == "none":
        return "no difference in steps can be claimed"
    if s.claim == "slower":
        return "slower in steps"
    ends, factor = s.steps_interval, f"{CLAIMED_FACTOR:g}x"
    where = "below" if ends.low > CLAIMED_FACTOR else "above" if ends.high < CLAIMED_FACTOR else "within"
    return f"faster in steps, {factor} lies {where} the interval"


def _seconds(s: SpeedUp) -> str:
    if s.seconds is None or s.seconds_interval is None:
        return "seconds need isolated timing: run make speed"
    times = "no factor" if math.isinf(s.seconds) or s.seconds == 0 else f"{number(s.seconds)} times as fast"
    return f"in seconds {times} ({_ends(s.seconds_interval)})"


def _ends(interval: Interval) -> str:
    return f"{number(interval.low)} to {number(interval.high)}"


def _limits(c: Comparison) -> Paragraph:
    metric = c.setup.metric
    known = [f"{shown(d.detectable, metric)} for {label(d.arm)}" for d in c.differences if d.detectable]
    known[:1] = [text.replace(" for ", f"{_unit(metric)} for ", 1) for text in known[:1]]
    borders = [label(arm.name) for arm in c.arms if arm.tuning.on_border]
    fallen = [f"{label(arm.name)} {collapses(arm)}" for arm in c.arms if arm.history.every.n_collapsed]
    gaps = f"a true gap of {', '.join(known)} would have been claimed with 80 % power" if known else ""
    fell = f"runs of the chosen cells that collapsed: {', '.join(fallen) or 'none'}"
    edge = f"the best cell of {' and '.join(borders)} lies on its grid's border, so it may not be tuned"
    cells = "claims are about the cells that this tuning chose"
    parts = [part for part in (gaps, fell, edge if borders else "", cells) if part]
    return ("How far this goes:", *parts)


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
