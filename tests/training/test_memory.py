"""Memory that a training keeps and gives back."""

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_is_kept_while_training_and_given_back_after_it():
    # A process of its own, whose allocator no other test has used.
    script = """
import resource, psutil, torch
from nobrainer.training.memory import kept_memory

def show():
    torch.ones(25_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    # A little smaller, for what is allocated in between.
    torch.ones(24_000_000)
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(pages, held())

def held():
    return psutil.Process().memory_info().rss // 10**6

show()
try:
    with kept_memory():
        show()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print(0, held())
"""
    run = [sys.executable, "-c", script]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    before, inside, after = (map(int, line.split()) for line in shown.splitlines())
    (asked, usual), (kept, held), (_, left) = before, inside, after
    # 96 MB are that many pages of 4 KiB, or of 2 MiB.
    assert asked > 40 > 10 > kept
    assert held > usual + 90
    assert left < usual + 10
