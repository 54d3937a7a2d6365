"""Reaching the Hugging Face Hub in bounded time: asked before its clients are, and every failure one clear line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn

from bench.core.errors import BadInput

# The clients retry for minutes on a silent socket; one short question first keeps the error within 10 seconds.
ANSWER_SECONDS = 4.0
GIVE_UP_SECONDS = 6.0  # name lookup and a slow trickle included

WAYS_OUT = (
    "give data with --data-dir or LORASWEEP_DATA (<dir>/<task>/train.tsv and dev.tsv), a model as a local directory "
    "(--model path/to/model), or run once where the Hub can be reached: its cache is used from then on"
)


_closed = ContextVar("closed", default=False)


@contextlib.contextmanager
def closed() -> Iterator[None]:
    """Within this, the Hub is never asked, nor its cache of data sets opened, which takes seconds to import."""
    token = _closed.set(True)
    try:
        yield
    finally:
        _closed.reset(token)


def refuse_if_closed(where: str, repo: str) -> None:
    """Raise the one error within `closed`."""
    if _closed.get():
        refuse(where, repo, "it is not asked for this")


def require(where: str, repo: str, *, api: str) -> None:
    """Return once the Hub has answered anything at all about `repo`.

    Args:
        where: what needs it, for the error.
        repo: the Hub id.
        api: "datasets" or "models".

    Raises:
        BadInput: within 10 seconds, where the Hub does not answer or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants

    refuse_if_closed(where, repo)
    if constants.is_offline_mode():
        refuse(where, repo, "HF_HUB_OFFLINE set and nothing in the Hugging Face cache")
    failure = _ask(f"{constants.ENDPOINT}/api/{api}/{repo}")
    if failure is not None:
        refuse(where, repo, f"{failure} from {constants.ENDPOINT}")


def failure() -> str | None:
    """Return why the Hub does not answer, within 10 seconds, or None where it does."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    failed = _ask(f"{constants.ENDPOINT}/api/models?limit=1")
    return None if failed is None else f"{failed} from {constants.ENDPOINT}"


def refuse(where: str, repo: str, got: str) -> NoReturn:
    """Raise the one error for a Hub that cannot give `repo`."""
    raise BadInput(where, f"the Hub must give {repo}", got=got, way_out=WAYS_OUT)


@contextlib.contextmanager
def failures(where: str, repo: str) -> Iterator[None]:
    """Turn whatever the Hub's clients raise, and they raise much, into the one error; keep the cause."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        first_line = next(iter(str(error).strip().splitlines()), "")
        raise BadInput(
            where, f"the Hub must give {repo}", got=f"{type(error).__name__}: {first_line[:300]}", way_out=WAYS_OUT
        ) from error


def _ask(url: str) -> str | None:
    """Return why there was no answer to one request, or None where there was one, whatever its status."""
    from huggingface_hub import get_session  # before the clock runs: importing it takes seconds on a busy machine

    outcome = [f"no answer in {GIVE_UP_SECONDS:g} s"]

    def ask() -> None:
        outcome[0] = _request(get_session, url)

    # A thread, because a name lookup has no timeout of its own; daemon, so that it never holds up the exit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(GIVE_UP_SECONDS)
    return outcome[0] or None


def _request(get_session: Callable[[], Any], url: str) -> str:
    try:
        # The clients' own session: the same proxies, certificates and user agent.
        get_session().get(url, timeout=ANSWER_SECONDS)
    except Exception as error:
        return f"{type(error).__name__} ({error})"
    return ""
