"""Questions to the platform that survive its absence for a while, can be stopped at any time, and never end in silence.

The SDK's own retries can be neither seen nor stopped, and its requests have no time limit, so every question is asked once, by
a copy of the api that does not retry, in a thread that can be left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import TypeVar

import requests
import supervisely as sly
from requests_toolbelt.multipart.decoder import ImproperBodyPartContentException, NonMultipartContentTypeException

from hrda_core.data.parallel import Stop, Stopped
from train_app.errors import UserError

Answer = TypeVar("Answer")
POLL = 0.1  # seconds between looks at `stop`
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0  # seconds between attempts, doubled each time
INCOMPLETE_ANSWERS = 4  # of the same question, until it is given up
SLOWEST = 100_000  # bytes per second of a connection that is still waited for
MAY_COME_BACK = (408, 429, 499)  # of the 4xx


class Gone(UserError):
    """The platform knows no such thing (404)."""


class Incomplete(Exception):
    """The answer lacks something or is damaged; asked again at once it may be whole."""


# KeyError and RuntimeError are the SDK's when items are missing from a batch or a page
INCOMPLETE = (
    Incomplete,
    KeyError,
    ValueError,
    RuntimeError,
    ImproperBodyPartContentException,
    NonMultipartContentTypeException,
)


class StillIncomplete(UserError):
    """So is every answer to the same question."""


class Connection:
    """Asks the platform through `api`, patiently.

    patience: how many seconds of failures in a row are survived. silence: how long one request may take, beyond the time
    that its bytes need. notify: hears a sentence for the user, whenever an attempt failed and another follows.
    """

    def __init__(
        self,
        api: sly.Api,
        notify: Callable[[str], None] | None = None,
        stop: Stop | None = None,
        patience: float = 120.0,
        silence: float = 60.0,
    ) -> None:
        self._api, self._notify, self._stop = api, notify, stop
        self._patience, self._silence = patience, silence
        self._over = threading.Event()
        self._logger = logging.getLogger("train_app.connection")

    def ask(self, what: str, call: Callable[[sly.Api], Answer], size: int = 0) -> Answer:
        """The answer of `call`, which must do the same when it is repeated. `what` completes "while asking for ...".

        Args:
            size: bytes that are expected, for which more time is given.

        Raises:
            Gone: 404. Stopped: within a fraction of a second.
            UserError: refused, no answer for longer than the patience, or nothing but incomplete answers.
        """
        failing_since: float | None = None
        wait, incomplete = FIRST_WAIT, 0
        while True:
            try:
                return self._once(call, self._silence + size / SLOWEST)
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else 500
                _raise_if_final(what, error, status)
                reason = f"status {status}"
            except (requests.RequestException, TimeoutError) as error:
                reason = type(error).__name__
            except INCOMPLETE as error:
                if isinstance(error, (Stopped, UserError)):
                    raise
                incomplete += 1
                reason = str(error) if isinstance(error, Incomplete) else f"incomplete answer, {error!r}"
                if incomplete == INCOMPLETE_ANSWERS:
                    raise StillIncomplete(
                        f"The platform's answer is incomplete each time while asking for {what} ({reason}); "
                        f"look at these images in the platform, and start again"
                    ) from error
            failing_since = failing_since or time.monotonic()
            left = self._patience - (time.monotonic() - failing_since)
            self._logger.warning("%s: %s, %.0f s left", what, reason, left)
            if left <= 0:
                raise UserError(
                    f"The platform did not answer for {self._patience:.0f} seconds while asking for {what} ({reason}). "
                    f"Check the connection and start again: what has arrived is kept"
                )
            if self._notify is not None and not incomplete:
                self._notify(f"The platform does not answer, trying again for {left:.0f} more seconds")
            self.pause(min(wait, left))
            wait = min(2 * wait, LONGEST_WAIT)

    def pause(self, seconds: float) -> None:
        """Waits. Raises Stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.raise_if_stopped()
            time.sleep(min(POLL, left))
        self.raise_if_stopped()

    def give_up(self) -> None:
        """What is being asked in other threads ends as if it had been stopped, since its answer is of no use any more."""
        self._over.set()

    def raise_if_stopped(self) -> None:
        if self._over.is_set() or (self._stop is not None and self._stop()):
            raise Stopped("stopped while data were being fetched")

    def _once(self, call: Callable[[sly.Api], Answer], limit: float) -> Answer:
        self.raise_if_stopped()
        future: Future[Answer] = Future()

        def work() -> None:
            try:
                future.set_result(call(self._impatient()))
            except BaseException as error:  # the waiting thread raises it
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                return future.result(timeout=POLL)
            except NotYet as error:
                if future.done():  # a TimeoutError of the call itself
                    raise TimeoutError(str(error)) from error
            self.raise_if_stopped()
        raise TimeoutError(f"no answer within {limit:.0f} seconds")

    def _impatient(self) -> sly.Api:
        """One api for each question, since the SDK keeps state of downloads in it."""
        api = sly.Api(
            self._api.server_address,
            self._api.token,
            retry_count=1,
            retry_sleep_sec=0,
            api_server_address=self._api.api_server_address,
        )
        api.headers = dict(self._api.headers)
        api.additional_fields = dict(self._api.additional_fields)
        return api


def _raise_if_final(what: str, error: requests.HTTPError, status: int) -> None:
    if status == 404:
        raise Gone(f"The platform has no {what} (any more); reload the projects, and choose again") from error
    if status in (401, 403):
        raise UserError(
            f"The platform refuses access to {what} (status {status}); ask the project's owner for access, or log in again"
        ) from error
    if 400 <= status < 500 and status not in MAY_COME_BACK:
        raise UserError(f"The platform refuses {what} (status {status}: {error}); check the choice of projects") from error
