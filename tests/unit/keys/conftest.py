"""What the tests of keys share."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from sidecar.outbound import ControlClient
from tests.support.jwks_server import JwksServer
from tests.support.key_world import A, World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(JwksServer())
        client = ControlClient()
        stack.push_async_callback(client.aclose)
        server.publish(A)
        async with AsyncExitStack() as inner:
            yield World(server, client, inner)
