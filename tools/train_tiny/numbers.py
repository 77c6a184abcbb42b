# ruff: noqa: E501 (the wordings of one question stand on one line)
# fmt: off
"""Exchanges about small whole numbers: sums, differences, comparisons, sorting, counting, little word problems.

Replies restate the problem (`3 + 48 = 51.`), which is what lets so small a network work the answer out digit by digit.

    add(Random(0))  ->  Exchange("sum", "Add 27 and 5.", "27 + 5 = 32.", "sum:5,27")
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .items import Exchange
from .words import FOODS, NUMBER_WORDS, THINGS_COUNTED, any_name, listed


def _operand(rng: Random, most: int = 99) -> int:
    return rng.randint(0, 9) if rng.random() < 0.3 else rng.randint(0, most)


def sum_key(a: int, b: int) -> str | None:
    """The key of a + b; sums of two single digits are always trained on."""
    return None if max(a, b) < 10 else f"sum:{min(a, b)},{max(a, b)}"


def difference_key(a: int, b: int) -> str | None:
    """The key of a - b; differences of two single digits are always trained on."""
    return None if max(a, b) < 10 else f"difference:{a},{b}"


def add(rng: Random) -> Exchange:
    """Two numbers of one or two digits."""
    a, b = _operand(rng), _operand(rng)
    return Exchange("sum", _sum_question(rng, a, b), f"{a} + {b} = {a + b}.", sum_key(a, b))


def add_large(rng: Random) -> Exchange:
    """Two numbers below 1000, at least one of three digits."""
    a, b = rng.randint(100, 999), _operand(rng, 999)
    if rng.random() < 0.5:
        a, b = b, a
    return Exchange("sum of 3 digits", _sum_question(rng, a, b), f"{a} + {b} = {a + b}.", sum_key(a, b))


def _sum_question(rng: Random, a: int, b: int) -> str:
    return rng.choice((
        f"What is {a} + {b}?", f"What is {a} + {b}?", f"{a} + {b}", f"{a}+{b}", f"{a} + {b} =", f"{a} + {b} = ?",
        f"Add {a} and {b}.", f"What is {a} plus {b}?", f"what's {a} plus {b}?", f"How much is {a} + {b}?",
        f"Calculate {a} + {b}.", f"What is the sum of {a} and {b}?", f"Can you add {a} and {b}?", f"what is {a}+{b}",
        f"Please add {a} and {b}.", f"How much is {a} and {b}?",
    ))


def add_three(rng: Random) -> Exchange:
    """Three numbers up to twenty."""
    a, b, c = (rng.randint(0, 20) for _ in range(3))
    question = rng.choice((f"What is {a} + {b} + {c}?", f"{a} + {b} + {c}", f"Add {a}, {b} and {c}."))
    key = "sum3:" + ",".join(map(str, sorted((a, b, c))))
    return Exchange("sum of three", question, f"{a} + {b} + {c} = {a + b + c}.", key)


def subtract(rng: Random) -> Exchange:
    """A difference of two numbers of one or two digits, sometimes below zero."""
    a, b = _operand(rng), _operand(rng)
    if a < b and rng.random() < 0.9:
        a, b = b, a
    return Exchange("difference", _difference_question(rng, a, b), f"{a} - {b} = {a - b}.", difference_key(a, b))


def subtract_large(rng: Random) -> Exchange:
    """A number below 1000 less a smaller one, the first of three digits."""
    a = rng.randint(100, 999)
    b = _operand(rng, a)
    return Exchange("difference of 3 digits", _difference_question(rng, a, b), f"{a} - {b} = {a - b}.", difference_key(a, b))


def _difference_question(rng: Random, a: int, b: int) -> str:
    return rng.choice((
        f"What is {a} - {b}?", f"What is {a} - {b}?", f"{a} - {b}", f"{a}-{b}", f"{a} - {b} =", f"{a} - {b} = ?",
        f"Subtract {b} from {a}.", f"What is {a} minus {b}?", f"what's {a} minus {b}?", f"How much is {a} - {b}?",
        f"Calculate {a} - {b}.", f"Take {b} away from {a}.",
    ))


def multiply(rng: Random) -> Exchange:
    """The multiplication table up to twelve: a table to remember, all of it in training."""
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    question = rng.choice((
        f"What is {a} * {b}?", f"What is {a} times {b}?", f"{a} * {b}", f"{a} x {b}", f"what's {a} times {b}?",
        f"Multiply {a} by {b}.", f"How much is {a} times {b}?",
    ))
    return Exchange("multiplication table", question, f"{a} * {b} = {a * b}.")


def divide(rng: Random) -> Exchange:
    """The same table read the other way, without remainders."""
    a, b = rng.randint(0, 12), rng.randint(1, 12)
    question = rng.choice((f"What is {a * b} / {b}?", f"{a * b} / {b}", f"What is {a * b} divided by {b}?", f"Divide {a * b} by {b}."))
    return Exchange("division table", question, f"{a * b} / {b} = {a}.")


def too_large(rng: Random) -> Exchange:
    """What the model has not learned to work out, and says so."""
    if rng.random() < 0.5:
        a, b, sign = 10 ** rng.randint(3, 6) + rng.randrange(10**6), rng.randint(2, 9999), rng.choice("+-*/")
    else:
        a, b, sign = rng.randint(13, 999), rng.randint(13, 999), "*"
    question = rng.choice((f"What is {a} {sign} {b}?", f"{a} {sign} {b}", f"{a}{sign}{b}", f"How much is {a} {sign} {b}?"))
    return Exchange("small talk", question, "That is too large for me. I can add and subtract numbers below 1000.")


def word_problem(rng: Random) -> Exchange:
    """Somebody gets or gives away some things."""
    name, other = any_name(rng, True), any_name(rng, False)
    plural = rng.choice(list(THINGS_COUNTED))
    a, b = rng.randint(2, 30), rng.randint(2, 30)
    if rng.random() < 0.5:
        told = rng.choice((
            f"{name} has {a} {plural}. {other} gives her {b} more.", f"{name} has {a} {plural} and finds {b} more.",
            f"{name} had {a} {plural}. Then she got {b} more.",
        ))
        reply = f"{a} + {b} = {a + b}. {name} has {a + b} {plural} now."
        key = sum_key(a, b)
    else:
        a, b = a + b, b
        told = rng.choice((
            f"{name} has {a} {plural}. She gives {b} to {other}.", f"{name} had {a} {plural} and lost {b} of them.",
            f"{name} has {a} {plural}. {other} takes {b} of them.",
        ))
        reply = f"{a} - {b} = {a - b}. {name} has {a - b} {plural} now."
        key = difference_key(a, b)
    asked = rng.choice((f"How many {plural} does {name} have now?", f"How many {plural} does she have now?"))
    return Exchange("word problem", f"{told} {asked}", reply, key)


def compare(rng: Random) -> Exchange:
    """Which of two numbers is larger, asked in several ways."""
    most = rng.choice((20, 99, 99, 999))
    a, b = rng.sample(range(most + 1), 2)
    high, low = max(a, b), min(a, b)
    key = f"compare:{low},{high}"
    form = rng.randrange(4)
    if form == 0:
        word = rng.choice(("larger", "bigger", "greater"))
        return Exchange("comparison", f"Which is {word}, {a} or {b}?", f"{high} is {word} than {low}.", key)
    if form == 1:
        word = rng.choice(("smaller", "less"))
        return Exchange("comparison", f"Which is {word}, {a} or {b}?", f"{low} is {word} than {high}.", key)
    word = rng.choice(("larger", "bigger", "greater")) if form == 2 else rng.choice(("smaller", "less"))
    verdict, actual = ("Yes", word) if (a > b) == (form == 2) else ("No", "smaller" if form == 2 else "larger")
    return Exchange("comparison", f"Is {a} {word} than {b}?", f"{verdict}, {a} is {actual} than {b}.", key)


def extreme(rng: Random) -> Exchange:
    """The largest or smallest number of a list."""
    numbers = rng.sample(range(rng.choice((20, 100))), rng.randint(3, 6))
    word = rng.choice(("largest", "biggest", "smallest"))
    answer = min(numbers) if word == "smallest" else max(numbers)
    row = listed([str(n) for n in numbers])
    question = rng.choice((f"What is the {word} number in this list: {row}?", f"Which number is the {word}: {row}?"))
    return Exchange("largest of a list", question, f"The {word} number is {answer}.", f"{word}:{row}")


def sort(rng: Random) -> Exchange:
    """A list of numbers or letters in order."""
    length = rng.choice((2, 3, 3, 4, 4, 5, 5, 6, 7))
    if rng.random() < 0.25:
        items = rng.sample("abcdefghijklmnopqrstuvwxyz", min(length, 6))
        ordered, what = sorted(items), "letters"
    else:
        numbers = rng.sample(range(rng.choice((10, 100, 100))), length)
        items, ordered, what = [str(n) for n in numbers], [str(n) for n in sorted(numbers)], "numbers"
    row = listed(items)
    if what == "numbers" and rng.random() < 0.25:
        ordered.reverse()
        question = rng.choice((f"Sort from largest to smallest: {row}.", f"Sort these numbers in descending order: {row}."))
    else:
        question = rng.choice((
            f"Sort these {what}: {row}.", f"Sort the {what} {row}.", f"Put these {what} in order: {row}.", f"Sort: {row}",
            f"sort {row}", f"Can you sort these {what}? {row}",
        ))
    return Exchange("sorting", question, listed(ordered) + ".", f"sort:{row}")


def reverse(rng: Random) -> Exchange:
    """A list backwards."""
    length = rng.randint(2, 6)
    items = [str(rng.randint(0, 99)) for _ in range(length)] if rng.random() < 0.5 else rng.sample(list(FOODS), length)
    row = listed(items)
    question = rng.choice((f"Reverse this list: {row}.", f"Say this list backwards: {row}."))
    return Exchange("reversing", question, listed(items[::-1]) + ".", f"reverse:{row}")


def count(rng: Random) -> Exchange:
    """Counting up or down, by ones or in steps."""
    step = rng.choice((1, 1, 1, 2, 5, 10))
    first = rng.randint(0, 9 if rng.random() < 0.5 else 90) if step == 1 else step * rng.randint(0, 6)
    last = first + step * rng.randint(2, 12)
    row = list(range(first, last + 1, step))
    by = "" if step == 1 else f" by {NUMBER_WORDS[step]}s"
    if step == 1 and rng.random() < 0.3:
        row.reverse()
        question = rng.choice((f"Count down from {last} to {first}.", f"Count backwards from {last} to {first}."))
    else:
        question = rng.choice((
            f"Count from {first} to {last}{by}.", f"Can you count from {first} to {last}{by}?",
            f"Please count from {first} to {last}{by}.",
        ))
    return Exchange("counting", question, listed([str(n) for n in row]) + ".", f"count:{first},{last},{step}")


def neighbour(rng: Random) -> Exchange:
    """The number after or before another."""
    n = rng.randint(1, rng.choice((20, 100, 998)))
    key = None if n < 20 else f"neighbour:{n}"
    if rng.random() < 0.5:
        question = rng.choice((f"What number comes after {n}?", f"What comes after {n}?", f"What is the next number after {n}?"))
        return Exchange("next number", question, f"The number after {n} is {n + 1}.", key)
    question = rng.choice((f"What number comes before {n}?", f"What comes before {n}?"))
    return Exchange("next number", question, f"The number before {n} is {n - 1}.", key)


def parity(rng: Random) -> Exchange:
    """Even or odd."""
    n = rng.randint(0, rng.choice((20, 100, 999)))
    question = rng.choice((f"Is {n} even or odd?", f"Is {n} an even or an odd number?"))
    return Exchange("even or odd", question, f"{n} is {'odd' if n % 2 else 'even'}.", None if n < 20 else f"parity:{n}")


def tally(rng: Random) -> Exchange:
    """How often something stands in a list."""
    plurals = rng.sample(list(THINGS_COUNTED), 3)
    words = [THINGS_COUNTED[plurals[0]]] * rng.randint(1, 5)
    words += rng.choices([THINGS_COUNTED[p] for p in plurals[1:]], k=rng.randint(1, 4))
    rng.shuffle(words)
    row, number = listed(words), words.count(THINGS_COUNTED[plurals[0]])
    question = f"How many {plurals[0]} are in this list: {row}?"
    if number == 1:
        reply = f"There is 1 {THINGS_COUNTED[plurals[0]]} in the list."
    else:
        reply = f"There are {number} {plurals[0]} in the list."
    return Exchange("counting a list", question, reply, f"tally:{plurals[0]}:{row}")


# generator -> its weight among the exchanges about numbers
NUMBER_TASKS: dict[Callable[[Random], Exchange], float] = {
    add: 6, add_large: 3, add_three: 2, subtract: 5, subtract_large: 2, multiply: 1.5, divide: 0.7, too_large: 0.3, word_problem: 3, compare: 2, extreme: 1.5, sort: 3,
    reverse: 0.7, count: 2, neighbour: 1, parity: 0.7, tally: 1.5,
}
