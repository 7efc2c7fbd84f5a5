"""What the system lets a process have."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from spiketok.storage.limits import available_memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_available_memory_is_within_the_machine_and_an_address_limit():
    assert 0 < available_memory() < 2**50
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9,) * 2)\n"
        "from spiketok.storage.limits import available_memory; print(available_memory())"
    )
    told = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert told < 3 * 10**9 - 10 * resource.getpagesize()
