"""Settings of every test: one thread (few cores, tiny models), nothing from the network; fixtures of several files."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator

import hypothesis
import pytest

# No test may fail because a machine is slow or busy: an example may take as long as it takes.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_finish() -> None:
    """Let no garbage collection, which the engine asks for before each pack, look at what was imported again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def denormals_are_put_back() -> Iterator[None]:
    """Undo what a sweep in this process does to the arithmetic of every other test (engine.run.settle_process)."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, which matters when power is cut, not when a process dies; test_store.py has the calls."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def handlers_are_put_back() -> Iterator[None]:
    """Check that a test leaves the handlers of signals as they were."""
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """Return the rows of the small sweep that nothing happened to."""
    from tests.support import sweep_helpers

    directory = tmp_path_factory.mktemp("whole")
    assert sweep_helpers.run(directory, sweep_helpers.TRIALS).exit_code == 0
    return sweep_helpers.rows(directory)
