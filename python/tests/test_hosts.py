"""The servers of a layer in every shape that channels_redis accepts, and several of them."""

import uuid

import pytest

from redis_server import RedisServer
from support import host, receive, receive_all

pytestmark = pytest.mark.layers("server")


async def works(layer):
    channel, group = await layer.new_channel(), uuid.uuid4().hex
    await layer.send(channel, {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}
    await layer.group_add(group, channel)
    await layer.group_send(group, {"type": "b"})
    assert await receive(layer, channel) == {"type": "b"}


SHAPES = {
    "tuple": lambda server: ("127.0.0.1", server.port),
    "list": lambda server: ["127.0.0.1", server.port],
    "url": lambda server: server.url,
    "url with database": lambda server: server.url + "/3",
    "address": lambda server: {"address": server.url},
    "address and database": lambda server: {"address": server.url, "db": 2},
    "host and port": lambda server: {"host": "127.0.0.1", "port": server.port, "db": 1},
    "unix url": lambda server: f"unix://{server.socket}",
    "unix url in a dict": lambda server: {"address": f"unix://{server.socket}", "db": 1},
    "login in the url": lambda server: f"redis://app:p%2Fw@127.0.0.1:{server.port}",
    "login in a dict": lambda server: {"address": server.url, "username": "app", "password": "p/w"},
    "tuned": lambda server: {"address": server.url, "socket_connect_timeout": 5, "health_check_interval": 30},
    "tuned url": lambda server: f"{server.url}?health_check_interval=30&socket_keepalive=true",
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_host_may_have_each_shape(make_layer, redis, shape):
    redis.client.execute_command("ACL", "SETUSER", "app", "on", ">p/w", "~*", "&*", "+@all")
    await works(make_layer(hosts=[SHAPES[shape](redis)]))


@pytest.mark.layers("stored")
async def test_the_database_of_a_host_is_used(make_layer, redis, channel, prefix):
    layer = make_layer(hosts=[{"address": redis.url, "db": 5}])
    await layer.send(channel, {"type": "a"})
    client = redis.client
    client.select(5)
    assert [key for key in client.keys(f"{prefix}*") if channel.encode() in key]


@pytest.mark.layers("validating")
async def test_a_string_instead_of_a_list_is_refused(make_layer, redis):
    with pytest.raises(Exception, match="list"):
        await works(make_layer(hosts=redis.url))


@pytest.mark.layers("ours", "server")
@pytest.mark.parametrize(
    "option, config",
    [
        ("hosts", {"hosts": "redis://127.0.0.1"}),
        ("hosts[0]", {"hosts": ["http://127.0.0.1"]}),
        ("credential_provider", {"hosts": [{"host": "a", "credential_provider": object()}]}),
        ("expiry", {"expiry": "soon"}),
        ("expiry", {"expiry": -1}),
        ("capacity", {"capacity": 0}),
        ("channel_capacity", {"channel_capacity": {"a": "many"}}),
        ("symmetric_encryption_keys", {"symmetric_encryption_keys": "secret"}),
        ("random_prefix_length", {"random_prefix_length": 5000}),
        ("serializer", {"serializer_format": "yaml"}),
        ("capacities", {"capacities": 5}),
    ],
)
async def test_an_option_that_cannot_be_honoured_is_refused_by_name(make_layer, option, config):
    from django.core.exceptions import ImproperlyConfigured

    with pytest.raises(ImproperlyConfigured) as refused:
        make_layer(**config)
    assert option in str(refused.value) and "secret" not in str(refused.value)


@pytest.mark.layers("ours")
async def test_a_regex_that_the_crate_cannot_express_is_refused_by_name(make_layer):
    import re

    from django.core.exceptions import ImproperlyConfigured

    with pytest.raises(ImproperlyConfigured, match="channel_capacity"):
        make_layer(channel_capacity={re.compile(r"(?!jobs)\w+"): 5})


@pytest.fixture(scope="module")
def sentinel(redis):
    """A sentinel that knows the server of the tests as `main`."""
    server = RedisServer(f"sentinel monitor main 127.0.0.1 {redis.port} 1", sentinel=True)
    yield server.port
    server.close()


async def test_a_master_may_be_found_through_sentinels(make_layer, sentinel):
    await works(make_layer(hosts=[{"sentinels": [("127.0.0.1", sentinel)], "master_name": "main"}]))


@pytest.fixture(scope="module")
def second_redis():
    server = RedisServer()
    yield server
    server.close()


@pytest.mark.layers("ours")
async def test_channels_and_groups_are_spread_over_several_hosts(make_layer, redis, second_redis):
    """channels_redis sends some channels to another host than the one that it reads."""
    hosts = [host(redis.url), host(second_redis.url)]
    layer, other = make_layer(hosts=hosts), make_layer(hosts=hosts)
    for number in range(20):
        channel, group = await layer.new_channel(), f"group{number}"
        await other.send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
        await layer.group_add(group, channel)
        await other.group_send(group, {"type": "b"})
        assert await receive(layer, channel) == {"type": "b"}


@pytest.mark.layers("ours", "stored")
async def test_a_normal_channel_is_read_from_all_hosts(make_layer, redis, second_redis, channel):
    layer = make_layer(hosts=[host(redis.url), host(second_redis.url)])
    for number in range(20):
        await layer.send(channel, {"type": "a", "number": number})
    received = await receive_all(layer, channel, 20)
    assert sorted(message["number"] for message in received) == list(range(20))


class TestPrefix:
    @pytest.mark.layers("stored")
    async def test_layers_with_different_prefixes_are_apart(self, make_layer, channel, group, prefix):
        one, two = make_layer(prefix=f"{prefix}one"), make_layer(prefix=f"{prefix}two")
        await one.send(channel, {"type": "one"})
        await two.send(channel, {"type": "two"})
        assert await receive(two, channel) == {"type": "two"}
        assert await receive(one, channel) == {"type": "one"}

    async def test_groups_of_different_prefixes_are_apart(self, make_layer, group, prefix):
        layers = [make_layer(prefix=f"{prefix}{number}") for number in range(2)]
        channels = [await layer.new_channel() for layer in layers]
        for layer, channel in zip(layers, channels, strict=True):
            await layer.group_add(group, channel)
        for number, layer in enumerate(layers):
            await layer.group_send(group, {"type": "a", "number": number})
        for number, (layer, channel) in enumerate(zip(layers, channels, strict=True)):
            assert await receive(layer, channel) == {"type": "a", "number": number}


class TestEncryption:
    async def test_messages_are_encrypted_for_each_key(self, make_layer, group):
        key, old = "k" * 32, "o" * 32
        new_layer = make_layer(symmetric_encryption_keys=[key, old])
        old_layer = make_layer(symmetric_encryption_keys=[old])
        channel = await new_layer.new_channel()
        await new_layer.group_add(group, channel)
        for layer, text in [(new_layer, "new"), (old_layer, "old")]:
            await layer.send(channel, {"type": text})
            assert await receive(new_layer, channel) == {"type": text}
            await layer.group_send(group, {"type": text})
            assert await receive(new_layer, channel) == {"type": text}

    @pytest.mark.layers("ours")
    async def test_a_key_may_be_bytes(self, make_layer):
        channel = await (layer := make_layer(symmetric_encryption_keys=["k" * 32])).new_channel()
        await make_layer(symmetric_encryption_keys=[b"k" * 32]).send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}

    @pytest.mark.layers("stored")
    async def test_redis_holds_no_plain_text(self, make_layer, redis, channel, prefix):
        def contents():
            client = redis.client
            for key in client.keys(f"{prefix}*"):
                yield client.dump(key) or b""

        await make_layer(random_prefix_length=12).send(channel, {"type": "plain.text"})
        assert any(b"plain.text" in content for content in contents())
        redis.client.delete(*redis.client.keys(f"{prefix}*"))
        await make_layer(symmetric_encryption_keys=["k" * 32]).send(channel, {"type": "plain.text"})
        stored = list(contents())
        assert stored and not any(b"plain.text" in content for content in stored)

    @pytest.mark.layers("ours")
    async def test_a_message_of_another_key_is_passed_over(self, make_layer, channel):
        """A receive of channels_redis fails with such a message."""
        layer = make_layer(symmetric_encryption_keys=["k" * 32])
        channel = await layer.new_channel()
        await make_layer(symmetric_encryption_keys=["x" * 32]).send(channel, {"type": "other"})
        await layer.send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}

    @pytest.mark.layers("ours")
    async def test_an_accepted_key_only_decrypts(self, make_layer):
        layer = make_layer(symmetric_encryption_keys=["o" * 32], accept_only_keys=["n" * 32])
        channel = await layer.new_channel()
        await make_layer(symmetric_encryption_keys=["n" * 32]).send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}


@pytest.mark.layers("stored")
@pytest.mark.parametrize("length", [8, 20])
async def test_the_random_prefix_may_have_any_length(make_layer, length):
    layer = make_layer(random_prefix_length=length)
    await works(layer)
    for _ in range(3):
        await layer.send(channel := "same", {"type": "a"})
    assert await receive_all(layer, channel, 3) == [{"type": "a"}] * 3
