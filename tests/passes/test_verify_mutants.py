"""The verifier against mutated plans: it may refuse too much, never accept what brute force calls wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from eventide.errors import PlanError
from eventide.ir.nodes import Plan
from eventide.passes.sampling import sample_symbols, view
from eventide.passes.verify import verify
from tests.brute import Kept, faults
from tests.mutants import Mutant, mutants
from tests.programs import plans

# how many mutants of each plan the long test takes, and how many of them the verifier must refuse; "twice": changed twice
NUMBERS = {
    "decoder-cpu": (220, 140), "decoder-gpu": (200, 135), "decode-gpu": (330, 185), "mlp": (159, 100), "mlp-per_op": (159, 100),
    "mlp-gpu": (159, 100), "heads": (127, 70), "heads-gpu": (127, 70), "experts": (283, 180), "experts-given": (137, 90),
    "mlp twice": (340, 280), "mlp-per_op twice": (340, 280), "heads twice": (340, 280),
}  # fmt: skip
SINGLE = [name for name in NUMBERS if not name.endswith(" twice")]

pytestmark = pytest.mark.untraced  # repeats itself: counting lines would take longer than the tests


@pytest.fixture(scope="module")
def base() -> dict[str, Plan]:
    return plans(verify=False)


def chosen(plan: Plan, number: int, seed: int, twice: bool = False) -> list[Mutant]:
    found, rng = list(mutants(plan)), random.Random(seed)
    rng.shuffle(found)
    if not twice:
        return found[:number]
    pairs = ((once, rng.choice(list(mutants(once[1])))) for once in (rng.choice(found) for _ in range(number)))
    return [(f"{what}; {then}", plan) for (what, _), (then, plan) in pairs]


def accepted(plan: Plan) -> bool:
    try:
        verify(plan)
    except PlanError as e:
        assert len(str(e)) > 20
        return False
    return True


def judged(plan: Plan, kept: Kept | None = None) -> Iterator[str]:
    """What brute force finds at several steps with several tables, none of them those that the verifier draws."""
    for symbols in sample_symbols(plan):
        for seed, spread in ((101, 1.0), (102, 0.1)):
            yield from faults(plan, symbols, view(plan, symbols, seed, spread).tables, kept)


def try_mutants(plan: Plan, number: int, seed: int, twice: bool = False) -> tuple[int, int]:
    taken = refused = 0
    kept = Kept()
    for what, mutant in chosen(plan, number, seed, twice):
        if accepted(mutant):
            wrong = next(judged(mutant, kept), None)
            assert wrong is None, f"{what}: accepted, but {wrong}"
            taken += 1
        else:
            refused += 1
    return taken, refused


@pytest.mark.parametrize("name", SINGLE)
def test_accepts_what_the_compiler_made(base: dict[str, Plan], name: str) -> None:
    verify(base[name])
    assert not list(judged(base[name]))


@pytest.mark.parametrize("name", SINGLE)
def test_some_mutants(base: dict[str, Plan], name: str) -> None:
    _, refused = try_mutants(base[name], 8, seed=1)
    assert refused >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_no_wrong_mutant_is_accepted(base: dict[str, Plan], name: str) -> None:
    number, least = NUMBERS[name]
    taken, refused = try_mutants(base[name.removesuffix(" twice")], number, seed=0, twice=name.endswith(" twice"))
    assert taken + refused == number
    assert refused >= least


def test_enough_mutants() -> None:
    assert sum(refused for _, refused in NUMBERS.values()) >= 2000


@pytest.mark.parametrize("name", ["mlp", "heads", "experts-given"])
def test_refusals_are_mostly_deserved(base: dict[str, Plan], name: str) -> None:
    """Refusing everything would be safe too: of the refused mutants, brute force must find most wrong."""
    refused = [m for _, m in chosen(base[name], 30, seed=2) if not accepted(m)]
    deserved = [m for m in refused if next(judged(m), None) is not None]
    assert len(deserved) >= 0.8 * len(refused)
