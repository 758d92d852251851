"""Simulate how often the verdicts' rule errs: the tables of docs/verdicts.md.

    python benchmarks/verdicts.py [--trials 100000]

Prints Markdown in about a minute on one core. The margin is 0.5 points throughout, printed numbers are rounded to 0.1.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import fdtrc, stdtrit

from omniad.reporting.verdicts import HIGHER, LOWER, REPRODUCED, decide, half_width, student

MARGIN, ROUNDING = 0.5, 0.05
SEEDS = range(1, 11)
SPREADS = (0.05, 0.1, 0.2, 0.4)
SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
RATIOS = (0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 10)
OTHERS = 16  # runs that could lend their spread, as many as the paper's ablations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    trials = parser.parse_args().trials
    print("## The rule\n")
    print_table(
        ["seeds", "false *reproduced*", "false *higher* or *lower*", *(f"s = {s}" for s in SPREADS)], rule(trials)
    )
    print("\n## The printed training's spread differs from ours\n")
    ratios = (0.5, 1, 1.5, 2, 3)
    print_table(["seeds", *(f"{ratio} times ours" for ratio in ratios)], other_print(trials, ratios))
    print("\n## Spread pooled if a test finds no difference\n")
    levels = (0.05, 0.25, 0.6)
    head = [f"{what}, test at {100 * level:.0f} %" for level in levels for what in ("error", "decided")]
    print_table(["seeds", "decided without pooling", *head], pooled(trials, levels))
    print("\n## Differences between two runs\n")
    print_table(["seeds", "Welch's degrees of freedom", "the smaller run's"], two_runs(trials))


def simulate(seeds: int, std: float, shift: float, trials: int, print_std: float | None = None) -> dict[str, float]:
    """How often the rule gives each verdict, for one number of seeds, spread and true shift."""
    rng = np.random.default_rng(seeds)
    place = rng.random(trials)  # of the true value between two numbers that can be printed
    printed = np.round(place + (std if print_std is None else print_std) * rng.standard_normal(trials), 1)
    ours = (place + shift)[:, None] + std * rng.standard_normal((trials, seeds))
    if seeds == 1:
        return {REPRODUCED: 0.0, HIGHER: 0.0, LOWER: 0.0}  # no spread, so inconclusive
    width = half_width(ours.std(axis=1, ddof=1), seeds, ROUNDING)
    kinds = decide(ours.mean(axis=1) - printed, width, MARGIN)
    return {kind: float((kinds == kind).mean()) for kind in (REPRODUCED, HIGHER, LOWER)}


def rule(trials: int) -> list[list[str]]:
    """Worst errors over all spreads and shifts, and how often a true reproduction is called one."""
    lines = []
    for n in SEEDS:
        cells = {(std, shift): simulate(n, std, shift, trials) for std in SPREADS for shift in SHIFTS}
        wrong = max(cell[REPRODUCED] for (_, shift), cell in cells.items() if shift >= MARGIN)
        different = max(cell[HIGHER] + cell[LOWER] for (_, shift), cell in cells.items() if shift == 0)
        lines.append([str(n), *map(percent, (wrong, different, *(cells[std, 0.0][REPRODUCED] for std in SPREADS)))])
    return lines


def other_print(trials: int, ratios: tuple[float, ...]) -> list[list[str]]:
    """The worst error when the print comes from a population with another spread."""
    lines = []
    for n in (3, 5, 10):
        worst = []
        for ratio in ratios:
            errors = []
            for std in SPREADS:
                same, shifted = (simulate(n, std, shift, trials, ratio * std) for shift in (0.0, MARGIN))
                errors += [same[HIGHER] + same[LOWER], shifted[REPRODUCED]]
            worst.append(percent(max(errors)))
        lines.append([str(n), *worst])
    return lines


def pooled(trials: int, levels: tuple[float, ...]) -> list[list[str]]:
    """A run's spread pooled with that of 16 others unless an F test says that its own is larger (at `level`, one-sided)
    or smaller (at 5 %).

    `error`: how often the true shift lies outside its interval, at the worst ratio of the run's spread to the others'.
    `decided`: how often a true reproduction is called one, if all have the same spread of 0.1.
    """
    lines = []
    for n in (2, 3, 5, 10):
        rng = np.random.default_rng(n)
        df, more = n - 1, OTHERS * (n - 1)
        own, others = rng.chisquare(df, trials) / df, rng.chisquare(more, trials) / more
        miss = rng.standard_normal(trials) * np.sqrt(1 + 1 / n)  # mean - print, in units of the run's spread
        alone = stdtrit(df, 0.975) * np.sqrt(own * (1 + 1 / n))
        cells = []
        for level in levels:
            errors, decided = [], 0.0
            for ratio in RATIOS:
                variance = ratio**2 * own
                p = fdtrc(df, more, variance / others)
                agree = (p > level) & (p < 0.95)
                both = np.sqrt((df * variance + more * others) / (df + more) * (1 + 1 / n))
                width = np.where(agree, stdtrit(df + more, 0.975) * both, ratio * alone)
                errors.append(float((np.abs(ratio * miss) > width).mean()))
                if ratio == 1:
                    decided = float((np.abs(miss) + width < (MARGIN - ROUNDING) / 0.1).mean())
            cells += [percent(max(errors)), percent(decided)]
        lines.append([str(n), percent(float((np.abs(miss) + alone < (MARGIN - ROUNDING) / 0.1).mean())), *cells])
    return lines


def two_runs(trials: int) -> list[list[str]]:
    """How often two runs of one mean are called different, at the worst ratio of their spreads."""
    lines = []
    for n, m in ((2, 2), (2, 10), (3, 3), (3, 10), (5, 5), (10, 10)):
        rng = np.random.default_rng(n * m)
        errors = []
        for ratio in RATIOS:
            a = ratio**2 * rng.chisquare(n - 1, trials) / (n - 1) / n
            b = rng.chisquare(m - 1, trials) / (m - 1) / m
            gap = np.abs(rng.standard_normal(trials)) * np.sqrt(ratio**2 / n + 1 / m)
            welch = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
            errors.append([float((gap > student(df) * np.sqrt(a + b)).mean()) for df in (welch, min(n, m) - 1)])
        lines.append([f"{n} and {m}", *(percent(max(column)) for column in zip(*errors, strict=True))])
    return lines


def percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def print_table(head: list[str], lines: list[list[str]]) -> None:
    print(f"| {' | '.join(head)} |\n|{' --: |' * len(head)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
