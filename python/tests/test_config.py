"""``channel_layer.config``: what a ``CONFIG`` means, without a server."""

import pathlib
import re
import ssl
from collections import OrderedDict

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils.functional import SimpleLazyObject

from channel_layer.config import Settings, options


def of(kind="channels_redis", **config):
    return options(config, kind)


def host(value):
    """The translation of one host."""
    return of(hosts=[value]).options["hosts"][0]


def refusal(kind="channels_redis", **config):
    with pytest.raises(ImproperlyConfigured) as refused:
        of(kind, **config)
    return str(refused.value)


def test_options_that_are_missing_or_none_keep_their_defaults():
    assert of() == Settings({})
    assert of(hosts=None, prefix=None, capacity=None, on_disconnect=None) == Settings({})
    assert of(hosts=[]) == Settings({}), "channels_redis takes an empty list as the default host"


def test_every_option_of_channels_redis_has_its_name():
    settings = of(
        hosts=[("localhost", 6379)],
        prefix="site",
        expiry=30,
        group_expiry=3600,
        capacity=500,
        channel_capacity={"http.request": 200},
        symmetric_encryption_keys=["one", "two"],
        random_prefix_length=8,
        serializer_format="json",
    )
    assert settings.options == {
        "hosts": [["localhost", 6379]],
        "prefix": "site",
        "expiry": 30,
        "group_expiry": 3600,
        "capacity": 500,
        "channel_capacity": [{"glob": "http.request", "capacity": 200}],
        "symmetric_encryption_keys": ["one", "two"],
        "random_prefix_length": 8,
        "serializer_format": "json",
    }
    assert settings.ignored == []


def test_options_of_the_crate_pass_under_their_names():
    own = {"cluster": True, "max_message_size": 4096, "accept_only_keys": ["old"], "tls_ca_file": "/ca.pem"}
    assert of("native", **own).options == own
    assert of("native", tls_ca_file=pathlib.Path("/ca.pem")).options == {"tls_ca_file": "/ca.pem"}


def test_the_options_are_json():
    assert of(hosts=[("a", 1)], capacity=5).json == '{"hosts": [["a", 1]], "capacity": 5}'


@pytest.mark.parametrize(
    "value, translated",
    [
        ("redis://localhost:6379/1", "redis://localhost:6379/1"),
        ("rediss://:secret@a?ssl_cert_reqs=none&db=2", "rediss://:secret@a?ssl_cert_reqs=none&db=2"),
        ("redis://a?protocol=3", "redis://a?protocol=3"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("/run/redis.sock", "unix:///run/redis.sock"),
        (("a", 6380), ["a", 6380]),
        (["a", "6380"], ["a", "6380"]),
        ({"address": "redis://a", "db": 3}, {"url": "redis://a", "db": 3}),
        ({"address": ("a", 6380), "password": "p"}, {"host": "a", "port": 6380, "password": "p"}),
        ({"address": "/run/redis.sock"}, {"url": "unix:///run/redis.sock"}),
        ({"host": "a", "port": 6380, "username": "u"}, {"host": "a", "port": 6380, "username": "u"}),
        ({"host": "a", "socket_timeout": None}, {"host": "a", "socket_timeout": None}),
        ({"unix_socket_path": pathlib.Path("/run/redis.sock")}, {"unix_socket_path": "/run/redis.sock"}),
        # Parameters of redis-py in a URL.
        ("redis://a?socket_timeout=2.5&db=1", {"url": "redis://a?db=1", "socket_timeout": 2.5}),
        ("rediss://a?ssl_ca_certs=/ca.pem", {"url": "rediss://a", "ssl_ca_certs": "/ca.pem"}),
        ({"address": "redis://a?socket_timeout=2", "socket_timeout": 3}, {"socket_timeout": 3, "url": "redis://a"}),
    ],
)
def test_a_host_in_each_of_its_shapes(value, translated):
    assert host(value) == translated


def test_sentinels():
    sentinel = {
        "sentinels": [("s", 26379), ("t", 26379)],
        "master_name": "main",
        "sentinel_kwargs": {"password": "p", "socket_keepalive": True},
        "db": 2,
    }
    settings = of(hosts=[sentinel])
    assert settings.options["hosts"] == [
        {
            "sentinels": [["s", 26379], ["t", 26379]],
            "master_name": "main",
            "sentinel_kwargs": {"password": "p"},
            "db": 2,
        }
    ]
    assert settings.ignored == ["hosts[0].sentinel_kwargs.socket_keepalive"]
    assert host({"host": "a", "master_name": None}) == {"host": "a"}


def test_hosts_may_be_any_iterable_but_not_a_string():
    assert of(hosts=(url for url in ["redis://a"])).options["hosts"] == ["redis://a"]
    assert refusal(hosts="redis://:secret@a") == "hosts: expected a list, even for one host, not a value of type str"
    assert "dict" in refusal(hosts={"address": "redis://a"})
    assert refusal(hosts=[5]).startswith("hosts[0]: expected a URL")
    assert refusal(hosts=[{"address": ("a", 1, 2)}]).startswith("hosts[0].address")


def test_arguments_that_only_tune_redis_py_have_no_effect():
    tuned = {"address": "redis://a", "max_connections": 5, "retry": object(), "health_check_interval": 30}
    settings = of(hosts=["redis://b", tuned])
    assert settings.options["hosts"] == ["redis://b", {"url": "redis://a"}]
    assert settings.ignored == ["hosts[1].max_connections", "hosts[1].retry", "hosts[1].health_check_interval"]
    assert of(hosts=["redis://a?health_check_interval=5"]).ignored == ["hosts[0].health_check_interval"]


def test_certificates():
    url = "rediss://a"
    for value in (None, "none", ssl.CERT_NONE):
        assert host({"address": url, "ssl_cert_reqs": value}) == {"url": url, "ssl_cert_reqs": "none"}
    for value in ("required", "optional", ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL):
        assert host({"address": url, "ssl_cert_reqs": value}) == {"url": url, "ssl_cert_reqs": "required"}
    assert host({"address": url, "ssl_check_hostname": False, "ssl_cert_reqs": None})["ssl_cert_reqs"] == "none"
    assert host({"host": "a", "ssl": True, "ssl_check_hostname": True}) == {"host": "a", "ssl": True}
    assert host({"address": url, "ssl_min_version": ssl.TLSVersion.TLSv1_2, "ssl_ca_data": None}) == {"url": url}
    assert "hosts[0].ssl_cert_reqs" in refusal(hosts=[{"address": url, "ssl_cert_reqs": "always"}])
    assert "hosts[0].ssl_check_hostname" in refusal(hosts=[{"address": url, "ssl_check_hostname": False}])
    assert "hosts[0].ssl_check_hostname" in refusal(hosts=[url + "?ssl_check_hostname=false"])
    assert "hosts[0].ssl_min_version" in refusal(hosts=[{"address": url, "ssl_min_version": ssl.TLSVersion.TLSv1_3}])


def test_an_ssl_context_is_honoured_only_if_it_verifies_nothing():
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    translated = {"host": "a", "port": 1, "ssl": True, "ssl_cert_reqs": "none"}
    assert host({"address": ("a", 1), "ssl": unverified}) == translated
    assert host({"address": ("a", 1), "ssl_context": unverified, "ssl_check_hostname": False}) == translated
    assert "hosts[0].ssl: " in refusal(hosts=[{"address": ("a", 1), "ssl": ssl.create_default_context()}])
    assert "hosts[0].ssl: expected a boolean" in refusal(hosts=[{"address": ("a", 1), "ssl": "yes"}])


def test_connection_classes():
    from redis import asyncio

    assert host({"host": "a", "connection_class": asyncio.SSLConnection}) == {"host": "a", "ssl": True}
    unix = {"path": "/run/redis.sock", "connection_class": asyncio.UnixDomainSocketConnection}
    assert host(unix) == {"path": "/run/redis.sock"}

    class Own(asyncio.Connection):
        pass

    assert "hosts[0].connection_class is not supported" in refusal(hosts=[{"host": "a", "connection_class": Own}])


@pytest.mark.parametrize("argument", ["credential_provider", "redis_connect_func", "ssl_ca_data", "ssl_ciphers"])
def test_arguments_that_cannot_be_honoured_are_refused_by_name(argument):
    fault = refusal(hosts=["redis://a", {"address": "redis://b", argument: "secret"}])
    assert fault.startswith(f"hosts[1].{argument} is not supported: ") and "secret" not in fault
    assert argument in refusal(connection_kwargs={argument: "secret"})


def test_keys_may_be_bytes_and_lazy():
    keys = [b"one", SimpleLazyObject(lambda: "two")]
    assert of(symmetric_encryption_keys=keys).options == {"symmetric_encryption_keys": ["one", "two"]}
    assert of(accept_only_keys=("old",)).options == {"accept_only_keys": ["old"]}
    for keys in ("secret", b"secret", 5):
        assert refusal(symmetric_encryption_keys=keys).startswith("symmetric_encryption_keys: expected a list of keys")
    fault = refusal(symmetric_encryption_keys=["secret", b"secret\xff"])
    assert fault == "symmetric_encryption_keys[1]: a key must be text or UTF-8; encode it with base64"
    assert refusal(accept_only_keys=[5]).startswith("accept_only_keys[0]: expected a string")


def test_rules_keep_their_order_and_their_kind():
    rules = OrderedDict([("z*", 1), (re.compile("^a"), 2), ("re:literal", 3), ("a*", 4)])
    assert of(channel_capacity=rules).options["channel_capacity"] == [
        {"glob": "z*", "capacity": 1},
        {"regex": "^a", "capacity": 2},
        {"glob": "re:literal", "capacity": 3},
        {"glob": "a*", "capacity": 4},
    ]
    assert of(channel_capacity={}).options == {"channel_capacity": []}


@pytest.mark.parametrize(
    "pattern, translated",
    [
        (re.compile(r"^websocket.send\!.+"), r"^websocket.send\!.+"),
        (re.compile("a", re.IGNORECASE | re.DOTALL), "(?is)a"),
        (re.compile("a b # c", re.VERBOSE | re.MULTILINE), "(?mx)a b # c"),
        (re.compile("a", re.ASCII), "a"),
        (re.compile(r"a\Z"), r"a\z"),
        (re.compile(r"a\\Z"), r"a\\Z"),
        (re.compile(r"[]a][^]b][\]c]"), r"[]a][^]b][\]c]"),
        (re.compile(r"a--b&&c~~[x]"), r"a--b&&c~~[x]"),
    ],
)
def test_a_regex_keeps_its_meaning(pattern, translated):
    assert of(channel_capacity={pattern: 5}).options["channel_capacity"] == [{"regex": translated, "capacity": 5}]


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
def test_a_set_in_a_regex_has_no_operators_and_no_nested_sets():
    for pattern, translated in [("[a&&b]", r"[a\&\&b]"), ("[a~~b]x", r"[a\~\~b]x"), ("[[a]x", r"[\[a]x")]:
        assert of(channel_capacity={re.compile(pattern): 5}).options["channel_capacity"][0]["regex"] == translated
    assert "hyphens" in refusal(channel_capacity={re.compile("[+--]"): 5})


def test_patterns_that_are_no_strings_are_refused():
    assert refusal(channel_capacity={5: 5}).startswith("channel_capacity: expected a glob or a compiled regex")
    assert refusal(channel_capacity={re.compile(b"a"): 5}).startswith("channel_capacity: b'a' matches bytes")


def test_values_that_json_cannot_express_are_refused_by_name():
    from datetime import timedelta

    assert refusal(expiry=timedelta(seconds=5)).startswith("expiry: expected a value that JSON can express")
    assert refusal(capacity=float("inf")) == "capacity: expected a finite number, not inf"
    assert refusal(prefix=b"site").startswith("prefix: expected")
    assert refusal(hosts=[{"host": "a", "password": b"secret"}]).startswith("hosts[0].password: expected")
    assert refusal(hosts=[{"host": "a", "more": object()}]).startswith("hosts[0].more: expected")


def test_the_backend_decides_the_format():
    assert refusal(format="pubsub").startswith("format: the BACKEND decides")
    with pytest.raises(ValueError, match="unknown kind"):
        options({}, "redis")


def test_notices_are_types_of_messages():
    settings = of("pubsub", on_disconnect="redis.disconnect", on_reconnect="redis.reconnect")
    assert (settings.on_disconnect, settings.on_reconnect) == ("redis.disconnect", "redis.reconnect")
    assert settings.options == {}
    assert refusal("pubsub", on_disconnect=print).startswith("on_disconnect: expected the type of a message")


def test_options_of_other_formats_are_named_as_ignored():
    assert of("native", serializer_format="json", random_prefix_length=8).ignored == [
        "serializer_format",
        "random_prefix_length",
    ]
    assert of("channels_redis", serializer_format="json").ignored == []
