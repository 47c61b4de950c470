"""Memory on a CPU: large pages, and tensors that follow each other in the same memory. Each test asks a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hrda_core.allocator import VARIABLE, held_memory

FAULTS = """
import resource, threading
import torch
from hrda_core.allocator import held_memory

def faults(run):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

def tensors():
    for _ in range(20):
        torch.ones(40 * 2**18)  # 40 MB

def inside():
    with held_memory():
        tensors()
"""


def ask(code: str, **environment: str) -> list[str]:
    given = {**os.environ, VARIABLE: "0", **environment}
    result = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    return result.stdout.split()


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_unless_the_environment_says_otherwise(given: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {} if given is None else {VARIABLE: given}
    code = f"import hrda_core.allocator, os; print(os.environ[{VARIABLE!r}])"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == expected


@pytest.mark.parametrize("start", ["run()", "t = threading.Thread(target=run); t.start(); t.join()"], ids=["main", "a thread"])
def test_held_memory_is_asked_of_the_system_once(start: str) -> None:
    code = f"""{FAULTS}
def run():
    print(faults(tensors), faults(inside))
{start}
"""
    plain, held = map(int, ask(code))
    assert held < plain / 5


def test_it_goes_back_to_the_system_at_the_end_of_the_outermost_block() -> None:
    code = f"""{FAULTS}
before = resident()
with held_memory():
    with held_memory():
        tensors()
    print(resident() - before)
print(resident() - before)
"""
    inner, outer = map(float, ask(code))
    assert inner > 30 > 15 > outer


def test_an_error_ends_the_block_too() -> None:
    code = f"""{FAULTS}
before = resident()
try:
    with held_memory():
        tensors()
        raise ValueError
except ValueError:
    print(resident() - before)
"""
    assert float(ask(code)[0]) < 15


def test_other_devices_are_left_alone() -> None:
    with held_memory("cuda"):
        pass
