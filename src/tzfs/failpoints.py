"""Named points at which a test makes tzfs crash, fail or wait, to see that nothing is lost there.

    TZFS_FAILPOINTS="write.after=crash:3,sync.before=error"     name=action[:nth], by commas

    crash    SIGKILL to this process: nothing is flushed, nothing is said
    error    `StoreError`, as when the disk fails
    bug      RuntimeError, as when tzfs is wrong
    delay    `DELAY_S` of waiting; on the event loop everything waits

With `nth` it happens at that one hit, without at each. A decorated function has two points, NAME.before and
NAME.after. Without the variable in the environment of the process `point` returns the function as it is, so
a mount in use pays nothing and nobody can arm it.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

from tzfs.errors import StoreError

VARIABLE: Final = "TZFS_FAILPOINTS"
IS_COMPILED: Final = VARIABLE in os.environ
"""Whether the points are there at all; decided once, when the process starts."""
DELAY_S: Final = 0.2
ACTIONS: Final = ("crash", "error", "bug", "delay")

F = TypeVar("F", bound=Callable[..., Any])


class Armed(NamedTuple):
    """What happens at a point. nth: at which hit, 0 for each."""

    action: str
    nth: int


armed: dict[str, Armed] = {}
hits: Counter[str] = Counter()
"""How often each point was passed since `arm`."""


def parse(text: str) -> dict[str, Armed]:
    """Return what the variable says, by point. ValueError if it is not in its form."""
    found = {}
    for item in filter(None, text.split(",")):
        name, _, what = item.partition("=")
        action, _, nth = what.partition(":")
        if action not in ACTIONS or not (nth or "0").isdecimal():
            raise ValueError(f"{item!r} in {VARIABLE}: NAME=ACTION[:NTH], with an action of {ACTIONS}")
        found[name] = Armed(action, int(nth or 0))
    return found


def arm(text: str) -> None:
    """Forget all hits, and let happen what `text` says; nothing does if the points are not compiled in."""
    hits.clear()
    armed.clear()
    armed.update(parse(text))


def hit(name: str) -> None:
    """Pass a point."""
    hits[name] += 1
    found = armed.get(name)
    if found is None or found.nth not in (0, hits[name]):
        return
    if found.action == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif found.action == "delay":
        time.sleep(DELAY_S)
    elif found.action == "error":
        raise StoreError(f"failpoint {name}")
    else:
        raise RuntimeError(f"failpoint {name}")


def point(name: str) -> Callable[[F], F]:
    """Make points of the moments just before and just after a function, which may be a coroutine's."""

    def decorate(function: F) -> F:
        if not IS_COMPILED:
            return function
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wait(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any function's
                hit(f"{name}.before")
                result = await function(*args, **kwargs)
                hit(f"{name}.after")
                return result

            return cast("F", wait)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any function's
            hit(f"{name}.before")
            result = function(*args, **kwargs)
            hit(f"{name}.after")
            return result

        return cast("F", run)

    return decorate


arm(os.environ.get(VARIABLE, ""))
