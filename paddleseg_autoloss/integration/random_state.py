"""The state of Paddle's random generator, as a checkpoint holds it."""

from __future__ import annotations

import re
from typing import Any

import paddle

__all__ = ["random_state", "set_random_state"]

#: The state of a Mersenne Twister of 64 bits as text: its 312 numbers, and the place of the next.
_ENGINE = re.compile(r"(\d{1,20} ){312}(\d{1,3})")
_LAST_PLACE = 312


def random_state() -> dict[str, Any] | None:
    """Return the state of the generator that the network draws from, as numbers and text.

    It is None with Paddle 2, which does not give the state.
    """
    state = _parts(_states()[_index()])
    if state is None:
        return None
    _, seed, offset, engine = state
    return {"seed": seed, "offset": offset, "engine": bytes(engine).decode("ascii")}


def set_random_state(saved: Any) -> None:
    """Let the generator go on from a state that `random_state` has returned.

    Args:
        saved: the state; anything else changes nothing.
    """
    states = _states()
    own = _parts(states[_index()])
    if own is None or not _is_state(saved):
        return
    kind: Any = type(states[0])
    state = kind.__new__(kind)
    state.__setstate__((own[0], saved["seed"], saved["offset"], list(saved["engine"].encode())))
    states[_index()] = state
    paddle.set_rng_state(states)


def _states() -> list[Any]:
    """Return the state of the generator of each device of the present kind."""
    return list(paddle.get_rng_state())


def _index() -> int:
    """Return the number of the present device."""
    return int(paddle.get_device().partition(":")[2] or 0)


def _parts(state: Any) -> tuple[int, int, int, list[int]] | None:
    """Return the device, the seed, the offset and the engine of a state."""
    found = state.__getstate__() if hasattr(state, "__setstate__") else None
    return found if isinstance(found, tuple) and len(found) == 4 else None


def _is_state(saved: Any) -> bool:
    if not isinstance(saved, dict) or not isinstance(saved.get("engine"), str):
        return False
    numbers = [saved.get("seed"), saved.get("offset")]
    engine = _ENGINE.fullmatch(saved["engine"])
    are_numbers = all(isinstance(number, int) and 0 <= number < 2**64 for number in numbers)
    return engine is not None and int(engine[2]) <= _LAST_PLACE and are_numbers
