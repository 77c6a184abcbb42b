"""The verifier against mutated plans: it may refuse too much, never accept what brute force calls wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from eventide.errors import PlanError
from eventide.ir.nodes import Plan
from eventide.passes.sampling import sample_symbols, view
from eventide.passes.verify import verify
from tests.brute import faults
from tests.mutants import Mutant, mutants
from tests.programs import plans

# how many mutants of each plan the long test takes; 2,035 in all
NUMBERS = {
    "decoder-cpu": 210, "decoder-gpu": 200, "decode-gpu": 760, "mlp": 159, "mlp-per_op": 159, "heads": 127,
    "experts": 283, "experts-given": 137,
}  # fmt: skip


pytestmark = pytest.mark.untraced  # repeats itself: counting lines would take longer than the tests


@pytest.fixture(scope="module")
def base() -> dict[str, Plan]:
    return plans(verify=False)


def chosen(plan: Plan, number: int, seed: int) -> list[Mutant]:
    found = list(mutants(plan))
    random.Random(seed).shuffle(found)
    return found[:number]


def accepted(plan: Plan) -> bool:
    try:
        verify(plan)
    except PlanError as e:
        assert len(str(e)) > 20
        return False
    return True


def judged(plan: Plan) -> Iterator[str]:
    """What brute force finds at several steps with several tables, none of them those that the verifier draws."""
    for symbols in sample_symbols(plan):
        for seed, spread in ((101, 1.0), (102, 0.1)):
            yield from faults(plan, symbols, view(plan, symbols, seed, spread).tables)


def try_mutants(plan: Plan, number: int, seed: int) -> tuple[int, int]:
    kept = refused = 0
    for what, mutant in chosen(plan, number, seed):
        if accepted(mutant):
            wrong = next(judged(mutant), None)
            assert wrong is None, f"{what}: accepted, but {wrong}"
            kept += 1
        else:
            refused += 1
    return kept, refused


@pytest.mark.parametrize("name", NUMBERS)
def test_accepts_what_the_compiler_made(base: dict[str, Plan], name: str) -> None:
    verify(base[name])
    assert not list(judged(base[name]))


@pytest.mark.parametrize("name", NUMBERS)
def test_some_mutants(base: dict[str, Plan], name: str) -> None:
    _, refused = try_mutants(base[name], 8, seed=1)
    assert refused >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_no_wrong_mutant_is_accepted(base: dict[str, Plan], name: str) -> None:
    number = NUMBERS[name]
    kept, refused = try_mutants(base[name], number, seed=0)
    assert kept + refused == number
    assert refused > number // 3


def test_enough_mutants() -> None:
    assert sum(NUMBERS.values()) >= 2000


@pytest.mark.parametrize("name", ["mlp", "heads", "experts-given"])
def test_refusals_are_mostly_deserved(base: dict[str, Plan], name: str) -> None:
    """Refusing everything would be safe too: of the refused mutants, brute force must find most wrong."""
    refused = [m for _, m in chosen(base[name], 30, seed=2) if not accepted(m)]
    deserved = [m for m in refused if next(judged(m), None) is not None]
    assert len(deserved) >= 0.8 * len(refused)
