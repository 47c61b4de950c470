"""How the processes of one training learn that one of them has failed or is gone, wherever they are waiting."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

BEAT = 0.5  # seconds between two signs of life
GONE = 15.0  # seconds without one after which a rank counts as dead; torchrun kills the others after 30
SUSPECTED = 4.0  # seconds, once an exchange with the others has failed
LAST_WORDS = 10.0  # seconds that a failed rank has to end by itself
HINT = "give the same command again with --resume: it goes on from the last checkpoint, with any number of processes"


class RankWatch:
    """A thread that shows the others that this rank lives, and ends this process when another one has failed.

    It ends the process by itself since the main thread may wait for the dead rank for ever, inside an exchange that no
    exception can interrupt. What is on the disk is whole at any moment.

    Args:
        told: hears the sentence where this rank is the first to know; the others end silently.
    """

    def __init__(self, rank: int, size: int, told: Callable[[str], None]) -> None:
        self.rank, self.size = rank, size
        self._told = told
        self._patience = GONE
        self._failed_at: float | None = None  # when this rank itself failed
        self._over = threading.Event()
        server = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        # torchrun may start the processes again, with the same server
        self._store = PrefixStore(f"hrda-watch-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", server)
        self._store.set(f"who/{rank}", f"process {os.getpid()} on {socket.gethostname()}")
        self._store.set(f"beat/{rank}", "0")
        self._lock = threading.Lock()  # one message at a time on the connection
        self._thread = threading.Thread(target=self._watch, name="rank watch", daemon=True)

    def start(self) -> None:
        """After every rank has made its watch."""
        self._thread.start()

    def leave(self) -> None:
        """The training is over on every rank."""
        self._over.set()
        self._thread.join()

    def fail(self, reason: str) -> bool:
        """This rank has failed: the others end. False where another rank failed before, which then is the reason."""
        self._failed_at = time.monotonic()
        return self._claim(self.rank, reason)

    def suspect(self) -> None:
        """Waits, after an exchange failed, for the rank that caused it to be found; then this process ends.

        Returns where all others are well, so that the reason is here.
        """
        self._patience = SUSPECTED
        self._over.wait(2 * SUSPECTED)

    def _claim(self, rank: int, reason: str) -> bool:
        mine = json.dumps({"rank": rank, "by": self.rank, "reason": reason})
        try:
            with self._lock:
                return bool(self._store.compare_set("failure", "", mine) == mine.encode())
        except RuntimeError:  # the server is gone with whoever failed
            return False

    def _watch(self) -> None:
        seen: dict[int, tuple[bytes, float]] = {}  # rank -> its last beat, and when that was new
        keys = [f"beat/{rank}" for rank in range(self.size)]
        beat = 0
        while not self._over.wait(BEAT):
            beat += 1
            try:
                with self._lock:
                    self._store.set(f"beat/{self.rank}", str(beat))
                    beats = self._store.multi_get(keys)
                    failed = self._store.check(["failure"])
            except Exception as error:
                if self._failed_at is not None:  # the server went with another rank, because of this one's failure
                    self._over.wait(LAST_WORDS)
                    os._exit(1)
                if not self._over.is_set():
                    reason = str(error).partition("\n")[0]
                    self._end(f"the launcher of this training cannot be reached any more ({reason}): {HINT}", first=True)
                return
            now = time.monotonic()
            if failed:
                self._give_way(json.loads(self._store.get("failure")))
            for rank, value in enumerate(beats):
                if rank not in seen or seen[rank][0] != value:
                    seen[rank] = (value, now)
                elif now - seen[rank][1] > self._patience and rank != self.rank:
                    text = f"rank {rank} of {self.size} ({self._who(rank)}) was killed, or its machine is gone: {HINT}"
                    self._end(text, first=self._claim(rank, text))

    def _give_way(self, failure: dict[str, str | int]) -> None:
        """A rank has failed. Another one: end at once. This one: end, unless the main thread does it by itself."""
        if failure["by"] != self.rank and self._failed_at is None:
            self._end(f"rank {self.rank} ends, since rank {failure['rank']} failed", first=False)
        if self._failed_at is not None and time.monotonic() - self._failed_at > LAST_WORDS:
            os._exit(1)

    def _who(self, rank: int) -> str:
        with self._lock:
            return self._store.get(f"who/{rank}").decode()

    def _end(self, text: str, first: bool) -> None:
        print(f"error: {text}" if first else text, file=sys.stderr, flush=True)
        try:
            if first:
                self._told(text)
        finally:
            os._exit(1)
