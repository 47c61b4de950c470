"""How long the platform waits for the body of a request."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from .call import Refusal


def patient(receive: Receive, seconds: float) -> Receive:
    """Give up on a body that does not come, as the web server in front of the platform does (nginx: 408 after 60 s).

    It happens: where the SDK tries a multipart upload again, it sends the old length and nothing, and waits for ever.
    """
    complete = False

    async def next_message() -> Message:
        nonlocal complete
        if complete:  # what comes now is the news that the client is gone; that may take any time
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), seconds)
        except asyncio.TimeoutError:
            raise Refusal(408, "the body of the request did not arrive") from None
        complete = not message.get("more_body", False)
        return message

    return next_message
