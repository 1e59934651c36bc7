"""The layers that the tests run on: those of channels_redis, which show what users rely on, and those of the package.

A test with the fixture ``layer`` or ``make_layer`` runs on every layer. ``@pytest.mark.layers(...)`` names the layers,
or the traits of layers, that it needs instead. A promise that channels_redis does not keep is tested with ``ours``.
"""

import uuid

import pytest
from django.conf import settings
from django.utils.module_loading import import_string

from redis_server import RedisServer
from support import close, host

#: Each layer with its class and its traits.
LAYERS = {
    "channels_redis": ("channels_redis.core.RedisChannelLayer", {"theirs", "stored", "server", "validating"}),
    "channels_redis_pubsub": ("channels_redis.pubsub.RedisPubSubChannelLayer", {"theirs", "published", "server"}),
    "native": ("channel_layer.RedisChannelLayer", {"ours", "stored", "server", "validating"}),
    "core": ("channel_layer.ChannelsRedisLayer", {"ours", "stored", "server", "validating"}),
    "pubsub": ("channel_layer.PubSubChannelLayer", {"ours", "published", "server", "validating"}),
    "memory": ("channel_layer.MemoryChannelLayer", {"ours", "stored", "validating"}),
}


def pytest_configure(config):
    if not settings.configured:
        settings.configure(SECRET_KEY="of the tests", INSTALLED_APPS=["channels"], CHANNEL_LAYERS={})


def pytest_addoption(parser):
    parser.addoption("--layers", help="run the tests of layers only on these, separated by commas")


def pytest_generate_tests(metafunc):
    if "layer_name" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--layers")
    names = chosen.split(",") if chosen else list(LAYERS)
    for marker in metafunc.definition.iter_markers("layers"):
        names = [name for name in names if all(needed == name or needed in LAYERS[name][1] for needed in marker.args)]
    metafunc.parametrize("layer_name", names)


@pytest.fixture(scope="session")
def redis():
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def own_redis():
    """A server that the test may kill."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def prefix():
    return f"test{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_layer_sync(layer_name, redis, prefix):
    """Creates layers of one class, as separate processes would: with the same server and prefix, unless given."""
    path, traits = LAYERS[layer_name]

    def make(**config):
        if "server" in traits:
            config = {"hosts": [host(redis.url)], "prefix": prefix} | config
        return import_string(path)(**config)

    return make


@pytest.fixture
async def make_layer(make_layer_sync):
    """As ``make_layer_sync``, and closes the layers when the test ends."""
    made = []

    def make(**config):
        made.append(make_layer_sync(**config))
        return made[-1]

    yield make
    for layer in made:
        await close(layer)


@pytest.fixture
async def layer(make_layer):
    return make_layer()


@pytest.fixture
def group():
    return f"group.{uuid.uuid4().hex[:8]}"


@pytest.fixture
def channel():
    """The name of a normal channel. The names of pub/sub have no prefix, so that each test needs its own."""
    return f"jobs.{uuid.uuid4().hex[:8]}"
