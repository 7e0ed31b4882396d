"""Layouts asked of a language model, checked, and asked for again where they do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .check import Report, check
from .grammar import LayoutGrammar
from .layouts import Layout
from .parse import parse
from .prompts import complaint, instructions

SIDE = 1000  # of the square that models are asked to count on

# What a model writes: (instructions, attempt, grammar) -> its answer.
Ask = Callable[[str, int, LayoutGrammar], str]


@dataclass(frozen=True)
class Wish:
    """What is to be planned."""

    prompt: str
    width: int
    height: int
    objects: int = 12

    @property
    def grammar(self) -> LayoutGrammar:
        """The form of an answer; its boxes are at least a pixel, and no specks."""
        least = max(20, math.ceil(SIDE / min(self.width, self.height)))
        return LayoutGrammar(SIDE, least, self.objects)

    @property
    def instructions(self) -> str:
        return instructions(self.width, self.height, self.objects)


@dataclass(frozen=True)
class Plan:
    """A layout, how well it fits, and the answer it was read from."""

    layout: Layout
    report: Report
    answer: str
    attempts: int = 1
    failures: list[str] = field(default_factory=list)


def plan(wish: Wish, ask: Ask, retries: int = 1) -> Plan:
    """The first layout that fits, or the best of all attempts.

    Args:
        retries: how often to ask again, with the complaint, where a plan does not fit.

    Raises:
        ValueError: no answer held a layout.
    """
    if not wish.prompt.strip():
        raise ValueError("The prompt is empty: write what the picture shall show.")
    told, best = wish.instructions, None
    failures: list[str] = []
    for attempt in range(retries + 1):
        answer = ask(told, attempt, wish.grammar)
        try:
            layout = read_answer(answer, wish)
        except ValueError as error:
            failures.append(str(error))
            told = f"{wish.instructions}\n{complaint(answer[:500], [str(error)])}"
            continue
        report = check(layout, wish.prompt)
        current = Plan(layout, report, answer, attempt + 1, failures)
        best = current if best is None or report.score > best.report.score else best
        if not report.complaints:
            break
        told = f"{wish.instructions}\n{complaint(layout, report.complaints)}"
    if best is None:
        raise ValueError(
            f"The language model planned no layout ({len(failures)} attempts): {failures[-1]}"
        )
    return replace(best, attempts=attempt + 1)


def improve(layout: Layout, report: Report, wish: Wish, ask: Ask) -> Plan:
    """Asks once for a better layout, with what is wrong with this one; the better of both."""
    told = f"{wish.instructions}\n{complaint(layout, report.complaints)}"
    answer = ask(told, 0, wish.grammar)
    try:
        other = read_answer(answer, wish)
    except ValueError as error:
        return Plan(layout, report, answer, failures=[str(error)])
    judged = check(other, wish.prompt)
    return (
        Plan(other, judged, answer)
        if judged.score > report.score
        else (Plan(layout, report, answer))
    )


def read_answer(answer: str, wish: Wish) -> Layout:
    """A layout from an answer that should count on a square of 1000, but may not."""
    state = wish.grammar.feed(answer)
    if state is not None:  # as asked, letter by letter; perhaps cut off
        whole = state.repaired(answer)
        if whole is None:
            raise ValueError(f"The plan was cut off before its first object: {answer[-80:]!r}")
        layout = parse(whole, wish.width, wish.height, SIDE)
        if whole != answer:
            layout.issues.append("the plan was cut off; its unfinished object was dropped")
        return layout
    guessed = parse(answer, wish.width, wish.height, "auto")
    if guessed.unit == "fraction":
        return guessed
    try:
        asked = parse(answer, wish.width, wish.height, SIDE)
    except ValueError:
        return guessed
    return asked if len(asked.issues) <= len(guessed.issues) else guessed
