"""The processes at one task watch each other: who fails, dies, hangs, or is asked to stop, ends all."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from torch.distributed.distributed_c10d import PrefixStore, Store

from seglens.runtime.signals import asked_to_stop, signs_of_life

POLL_SECONDS = 0.5
"""How often a process asks whether another has failed."""
PATIENCE_SECONDS = 10.0
"""How long a process that failed stays, so that the others learn of it."""
BEAT_SECONDS = 2.0
"""How often a process says that it is there."""
LEFT = -(2**40)
"""Makes a count of beats negative for good."""
SILENCE, STANDSTILL = "SEGLENS_SILENCE", "SEGLENS_STANDSTILL"
LIMITS = {SILENCE: 120.0, STANDSTILL: 3600.0}
"""Environment variables and usual values, in seconds, of the limits of `Watchdog`."""


class Watchdog:
    """The processes that a launcher started for one command: they stop together, and if one dies or hangs, all end.

    A thread asks every `POLL_SECONDS` whether another process has failed and then ends this one with the same exit
    code, whatever it is waiting for or computing. It also passes on that this process was asked to stop, and every
    `BEAT_SECONDS` says that this process is there, and looks whether the others are: the first at all, all at the
    first.

    Args:
        store: shared by the processes.
        rank: this process's number.
        size: how many there are.
        silence: seconds without a beat of a process after which all end: it was killed, or its machine is gone.
        standstill: seconds after which all end where in none of them the main thread has shown a sign of life
            (`seglens.runtime.signals.sign_of_life`): one hangs and the others wait for it.
    """

    def __init__(self, store: Store, rank: int, size: int, *, silence: float, standstill: float):
        self.rank = rank
        self._size = size
        self._store = PrefixStore("seglens", store)
        self._over = threading.Event()
        self._silence = silence
        self._beat_every = min(BEAT_SECONDS, silence / 4)
        self._answered = threading.Event()
        self._silences = {
            **{f"beat {other}": _Silence(silence) for other in (range(1, size) if rank == 0 else range(1))},
            "signs": _Silence(standstill),
        }
        self._sent_signs = 0
        for thread in (self._watch, self._watch_store):
            threading.Thread(target=thread, daemon=True).start()

    def fail(self, code: int) -> tuple[int, bool]:
        """Tell the others that this process has failed, and wait until they have ended, `PATIENCE_SECONDS` at most.

        Returns:
            The exit code of the process that failed first, and whether that is this one.
        """
        self._over.set()
        code, first = self._declare(code)
        self._see_off(counting_self=not first)
        return code, first

    def leave(self) -> None:
        """Stop watching the others, and tell them that this process need not be missed."""
        if not self._over.is_set():
            self._over.set()
            with suppress(RuntimeError):
                self._store.add(f"beat {self.rank}", LEFT)

    def _declare(self, code: int) -> tuple[int, bool]:
        mine = json.dumps([code, self.rank])
        first = self._store.compare_set("failed", "", mine).decode()
        return int(json.loads(first)[0]), first == mine

    def _watch(self) -> None:
        code, since_beat = None, 0.0
        while code is None:
            if self._over.wait(POLL_SECONDS):
                return
            since_beat += POLL_SECONDS
            try:
                self._pass_on_stop()
                code = self._code_of_others()
                if code is None and since_beat >= self._beat_every:
                    code, since_beat = self._beat(since_beat), 0.0
            except RuntimeError:  # the store is gone, and with it the first process
                if self._over.wait(POLL_SECONDS):
                    return
                code = 1
            self._answered.set()
        self._see_off(counting_self=True)  # where this one missed another, it counts in that one's place
        os._exit(code)

    def _watch_store(self) -> None:
        """End where the store, which the first process keeps, does not even answer."""
        waited = 0.0
        while not self._over.wait(POLL_SECONDS):
            waited = 0.0 if self._answered.is_set() else waited + POLL_SECONDS
            self._answered.clear()
            if waited > self._silence:
                _say(f"the first process has not answered for {self._silence:g} s ({SILENCE}); was it killed?")
                os._exit(1)

    def _pass_on_stop(self) -> None:
        if asked_to_stop() is not None:
            self._store.set("stop", str(asked_to_stop()))
        elif self._store.check(["stop"]):
            signal.raise_signal(int(self._store.get("stop")))

    def _code_of_others(self) -> int | None:
        return int(json.loads(self._store.get("failed"))[0]) if self._store.check(["failed"]) else None

    def _beat(self, seconds: float) -> int | None:
        """Say that this process is there, and look whether the others are; an exit code where one is not.

        Times are counted in beats of this process: if all are halted for a while, as by Ctrl-Z, nobody is missed.
        """
        self._store.add(f"beat {self.rank}", 1)
        signs = signs_of_life()
        self._store.add("signs", signs - self._sent_signs)
        self._sent_signs = signs
        missed = [
            name for name, silence in self._silences.items() if silence.is_over(self._store.add(name, 0), seconds)
        ]
        if not missed:
            return None
        code, first = self._declare(1)
        if first:
            number = missed[0].removeprefix("beat ")
            limit = self._silences[missed[0]].limit
            _say(
                f"no process has got on for {limit:g} s; if one step may take longer, set {STANDSTILL} (in seconds)."
                if number == "signs"
                else f"process {number} has shown no sign of life for {limit:g} s ({SILENCE}); was it killed?"
            )
        return code

    def _see_off(self, *, counting_self: bool) -> None:
        """Wait until all but the process that failed know of it, or the store, which the first process keeps, is gone.

        So neither the message nor the store leaves before everybody has read it.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            known = self._store.add("known", int(counting_self))
            while known < self._size - 1 and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS / 5)
                known = self._store.add("known", 0)
        except RuntimeError:
            return


@dataclass
class _Silence:
    """How long a number has stayed the same."""

    limit: float
    value: int = 0
    waited: float = 0.0

    def is_over(self, value: int, seconds: float) -> bool:
        """Whether it has not changed for the limit; of who has left nothing is expected."""
        self.waited = 0.0 if value != self.value or value < 0 else self.waited + seconds
        self.value = value
        return self.waited > self.limit


def _say(complaint: str) -> None:
    """On the error stream itself: that of all but the first process is redirected."""
    print(f"seglens: {complaint} All processes stop; the same command goes on.", file=sys.__stderr__, flush=True)


def seconds(name: str) -> float:
    """One of `LIMITS`, as the environment has it or as it usually is.

    Raises:
        ValueError: not a number of seconds, or less than 1.
    """
    given = os.environ.get(name, str(LIMITS[name]))
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 1 <= value < float("inf"):
        raise ValueError(f"{name} is {given!r}; give a number of seconds, at least 1")
    return value
