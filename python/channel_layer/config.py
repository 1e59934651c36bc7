"""Translates the ``CONFIG`` of a channel layer into options of the Rust crate.

The crate parses and validates options, and it accepts the hosts of ``channels_redis``. This module converts only what
JSON cannot express, or what needs knowledge of Python's clients: compiled regexes, keys as bytes, SSL contexts, and
keyword arguments of redis-py and aioredis.
"""

import json
import math
import os
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.core.exceptions import ImproperlyConfigured

__all__ = ["KINDS", "Settings", "options"]

KINDS = ("native", "channels_redis", "pubsub", "memory")

#: Keyword arguments of redis-py and aioredis that only tune those clients. The crate has its own pool, probes idle
#: connections and reconnects, so they have no effect here.
TUNING = frozenset(
    """
    client_name decode_responses driver_info encoder_class encoding encoding_errors event_dispatcher
    health_check_interval legacy_responses lib_name lib_version loop max_connections maxsize min_version minsize parser
    parser_class pool_cls protocol queue_class retry retry_on_error retry_on_timeout single_connection_client
    socket_keepalive socket_keepalive_options socket_read_size socket_type timeout
    """.split()
)

#: Keyword arguments of redis-py that cannot be honoured, each with the advice for the error.
UNSUPPORTED = {
    "commands_factory": "the crate has its own client",
    "connection_cls": "the crate has its own connections",
    "credential_provider": "set username and password",
    "redis_connect_func": "the crate has its own connections",
    "ssl_ca_data": "write the certificates into a file and set ssl_ca_certs",
    "ssl_ca_path": "write the certificates into one file and set ssl_ca_certs",
    "ssl_ciphers": "the crate uses the cipher suites of rustls",
    "ssl_exclude_verify_flags": "the crate has its own verification of certificates",
    "ssl_include_verify_flags": "the crate has its own verification of certificates",
    "ssl_ocsp_context": "the crate does not support OCSP",
    "ssl_ocsp_expected_cert": "the crate does not support OCSP",
    "ssl_password": "store the key of the client without a passphrase",
    "ssl_validate_ocsp": "the crate does not support OCSP",
    "ssl_validate_ocsp_stapled": "the crate does not support OCSP",
}

#: Parameters in the URL of a server that are keyword arguments of redis-py. The crate parses the others itself.
URL_PARAMETERS = TUNING - {"protocol"} | UNSUPPORTED.keys() | {"socket_timeout", "socket_connect_timeout"}
URL_PARAMETERS |= {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_min_version"}

#: Options of ``channels_redis`` that are message types, sent to the consumers of the process.
NOTICES = ("on_disconnect", "on_reconnect")


@dataclass(frozen=True)
class Settings:
    """The translated ``CONFIG`` of one layer."""

    #: The options of the crate, by its names. Only values that JSON can express.
    options: dict[str, Any]
    #: Type of the message that consumers receive when the connection to a server breaks, or ``None``.
    on_disconnect: str | None = None
    #: Type of the message that consumers receive when a server is connected again, or ``None``.
    on_reconnect: str | None = None
    #: Names of settings that have no effect, such as ``hosts[0].max_connections``.
    ignored: list[str] = field(default_factory=list)

    @property
    def json(self) -> str:
        """The options as the JSON text that the crate parses."""
        return json.dumps(self.options)


def options(config: Mapping[str, Any], kind: str) -> Settings:
    """Translates ``config``, the ``CONFIG`` of a layer of the given ``kind``.

    Raises ``ImproperlyConfigured`` with the name of the option that cannot be honoured. Unknown options and values out
    of range are left to the crate.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of layer: {kind}")
    ignored: list[str] = []
    translated = {}
    for name, value in config.items():
        if value is None or name in NOTICES:
            continue
        if name == "format":
            raise ImproperlyConfigured("format: the BACKEND decides the format; remove this option")
        if name in ("hosts", "sentinels"):
            # An empty list means the default host, as in channels_redis.
            value = _hosts(name, value, ignored)
            if not value:
                continue
        elif name == "connection_kwargs":
            value = _host(name, value, ignored)
        elif name == "channel_capacity":
            value = _rules(name, value)
        elif name in ("symmetric_encryption_keys", "accept_only_keys"):
            value = _keys(name, value)
        translated[name] = _plain(name, value)
    if kind == "native":
        ignored += [name for name in ("serializer_format", "serializer", "random_prefix_length") if name in translated]
    notices = {name: _notice(name, config.get(name), kind) for name in NOTICES}
    return Settings(translated, ignored=ignored, **notices)


def _notice(name: str, value: Any, kind: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ImproperlyConfigured(f"{name}: expected the type of a message as a string, not {_kind(value)}")
    if value is not None and kind == "memory":
        return None
    return value


def _hosts(name: str, value: Any, ignored: list[str]) -> list:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ImproperlyConfigured(f"{name}: expected a list, even for one host, not {_kind(value)}")
    return [_host(f"{name}[{at}]", host, ignored) for at, host in enumerate(value)]


def _host(place: str, host: Any, ignored: list[str]) -> Any:
    """Translates one host: a URL, a pair of host and port, or keyword arguments of redis-py or aioredis."""
    if isinstance(host, str):
        url, parts = _split_url(host)
        return {"url": url, **_parts(place, parts, ignored)} if parts else url
    if isinstance(host, (tuple, list)):
        return list(host)
    if not isinstance(host, Mapping):
        raise ImproperlyConfigured(f"{place}: expected a URL, a pair of host and port, or a dict, not {_kind(host)}")
    parts = dict(host)
    address = parts.pop("address", None)
    if isinstance(address, (tuple, list)):
        # The form of aioredis, in channels_redis before 4.0.
        if len(address) != 2:
            raise ImproperlyConfigured(f"{place}.address: expected a URL, or a pair of host and port")
        parts.update(zip(("host", "port"), address, strict=True))
    elif isinstance(address, str):
        parts["url"], parameters = _split_url(address)
        # Keyword arguments take precedence over parameters of the URL.
        parts = parameters | parts
    elif address is not None:
        parts["url"] = address
    return _parts(place, parts, ignored)


def _split_url(url: str) -> tuple[str, dict[str, Any]]:
    """Splits a server's URL into the URL that the crate parses and the keyword arguments of redis-py in its query."""
    if url.startswith("/"):
        # aioredis takes the path of a socket.
        url = f"unix://{url}"
    base, mark, query = url.partition("?")
    if not mark:
        return url, {}
    pairs = parse_qsl(query, keep_blank_values=True)
    ours = {name: value for name, value in pairs if name in URL_PARAMETERS}
    if not ours:
        return url, {}
    kept = [(name, value) for name, value in pairs if name not in ours]
    return base + ("?" + urlencode(kept) if kept else ""), {name: _parameter(value) for name, value in ours.items()}


def _parameter(text: str) -> Any:
    """Converts a parameter of a URL as redis-py does: numbers and booleans by their look."""
    if text.lower() in ("true", "yes", "y", "t"):
        return True
    if text.lower() in ("false", "no", "n", "f", ""):
        return False
    try:
        return float(text)
    except ValueError:
        return text


def _parts(place: str, parts: dict[str, Any], ignored: list[str]) -> dict[str, Any]:
    """Translates the keyword arguments of a host into parts that the crate knows."""
    kept: dict[str, Any] = {}
    for name, value in parts.items():
        where = f"{place}.{name}"
        if name in TUNING:
            ignored.append(where)
        elif name in UNSUPPORTED:
            if value:
                raise ImproperlyConfigured(f"{where} is not supported: {UNSUPPORTED[name]}")
        elif name == "sentinels":
            kept[name] = _hosts(where, value, ignored)
        elif name == "sentinel_kwargs":
            kept[name] = _host(where, value or {}, ignored)
        elif name == "connection_class":
            kept.update(_connection_class(where, value))
        elif name == "ssl_cert_reqs":
            kept[name] = _certificates(where, value)
        elif name == "ssl_min_version":
            _check_version(where, value)
        elif name not in ("ssl", "ssl_context", "ssl_check_hostname"):
            kept[name] = value
    kept.update(_tls(place, parts))
    if kept.get("master_name", "") is None:
        # Without a master it is a plain host, as in channels_redis.
        for name in ("master_name", "sentinels", "sentinel_kwargs"):
            kept.pop(name, None)
    return kept


def _tls(place: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Translates what says whether connections use TLS, and whether they verify the certificate of the server."""
    translated: dict[str, Any] = {}
    for name in ("ssl", "ssl_context"):
        value = parts.get(name)
        if isinstance(value, ssl.SSLContext):
            if value.verify_mode != ssl.CERT_NONE:
                raise ImproperlyConfigured(
                    f"{place}.{name}: the certificates of an SSL context cannot be read; use a rediss:// URL, with "
                    "ssl_ca_certs, ssl_certfile and ssl_keyfile as needed"
                )
            translated |= {"ssl": True, "ssl_cert_reqs": "none"}
        elif value is not None:
            if not isinstance(value, bool):
                raise ImproperlyConfigured(f"{place}.{name}: expected a boolean or an SSL context, not {_kind(value)}")
            translated["ssl"] = value
    accepts_any = parts.get("ssl_cert_reqs", ssl.CERT_REQUIRED) in (None, "none", ssl.CERT_NONE)
    if not parts.get("ssl_check_hostname", True) and not accepts_any and "ssl_cert_reqs" not in translated:
        raise ImproperlyConfigured(
            f"{place}.ssl_check_hostname: a certificate is always verified with its host name; "
            "ssl_cert_reqs = None accepts any certificate"
        )
    return translated


def _certificates(place: str, value: Any) -> Any:
    """Translates ``ssl_cert_reqs``. A client treats ``CERT_OPTIONAL`` as ``CERT_REQUIRED``."""
    if value in (None, "none", ssl.CERT_NONE):
        return "none"
    if value in (ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED, "optional", "required"):
        return "required"
    raise ImproperlyConfigured(f"{place}: expected None, none, optional or required")


def _check_version(place: str, value: Any) -> None:
    """Refuses a minimum above TLS 1.2: the crate also uses TLS 1.2, and nothing older."""
    if value is not None and value > ssl.TLSVersion.TLSv1_2:
        raise ImproperlyConfigured(f"{place}: the crate uses TLS 1.2 and 1.3, and cannot be limited to TLS 1.3")


def _connection_class(place: str, value: Any) -> dict[str, Any]:
    """Translates the connection classes of redis-py. Their keyword arguments say the rest."""
    match getattr(value, "__name__", None) if getattr(value, "__module__", "").startswith("redis.") else None:
        case "Connection" | "UnixDomainSocketConnection":
            return {}
        case "SSLConnection":
            return {"ssl": True}
    raise ImproperlyConfigured(f"{place} is not supported: the crate has its own connections")


def _keys(name: str, value: Any) -> list[str]:
    """Translates encryption keys, which may be bytes in ``channels_redis``."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ImproperlyConfigured(f"{name}: expected a list of keys, not {_kind(value)}")
    keys = []
    for at, key in enumerate(value):
        if isinstance(key, bytes):
            try:
                key = key.decode()
            except UnicodeDecodeError:
                # The text of this error has part of the key.
                raise ImproperlyConfigured(
                    f"{name}[{at}]: a key must be text or UTF-8; encode it with base64"
                ) from None
        if not isinstance(key, str):
            raise ImproperlyConfigured(f"{name}[{at}]: expected a string, not {_kind(key)}")
        # A copy, because a lazy or marked string is not plain.
        keys.append(str(key))
    return keys


def _rules(name: str, value: Any) -> Any:
    """Translates ``channel_capacity`` into the ordered list of rules of the crate."""
    if not isinstance(value, Mapping):
        return value
    rules = []
    for pattern, capacity in value.items():
        if isinstance(pattern, re.Pattern):
            rules.append({"regex": _regex(name, pattern), "capacity": capacity})
        elif isinstance(pattern, str):
            rules.append({"glob": pattern, "capacity": capacity})
        else:
            raise ImproperlyConfigured(f"{name}: expected a glob or a compiled regex, not {_kind(pattern)}")
    return rules


#: The letters of flags in the syntax of the crate `regex`. Names are ASCII, so that re.ASCII changes nothing.
FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x"}

#: The parts of a regex whose meaning depends on whether they are in a set.
TOKEN = re.compile(r"\\.|\[\^?\]?|\]|&|~|--|.", re.DOTALL)


def _regex(name: str, pattern: re.Pattern) -> str:
    """Translates a regex of Python into the syntax of the crate ``regex``, which refuses what it cannot express."""
    if isinstance(pattern.pattern, bytes):
        raise ImproperlyConfigured(f"{name}: {pattern.pattern!r} matches bytes, but names are strings")
    translated, in_set = [], False
    for token in TOKEN.findall(pattern.pattern):
        if in_set and token == "--":
            raise ImproperlyConfigured(f"{name}: in {pattern.pattern!r}, write the hyphens of a set as \\-")
        if in_set and (token in "&~" or token.startswith("[")):
            # The crate would read them as operators or nested sets.
            translated += [f"\\{char}" if char in "[&~" else char for char in token]
            in_set = not token.endswith("]")
            continue
        if token.startswith("["):
            in_set = True
        elif token == "]":
            in_set = False
        translated.append(r"\z" if token == r"\Z" and not in_set else token)
    flags = "".join(name for flag, name in FLAGS.items() if pattern.flags & flag)
    return (f"(?{flags})" if flags else "") + "".join(translated)


def _plain(name: str, value: Any) -> Any:
    """Returns ``value`` as JSON can express it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ImproperlyConfigured(f"{name}: expected a finite number, not {value}")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(f"{name}[{at}]", item) for at, item in enumerate(value)]
    raise ImproperlyConfigured(f"{name}: expected a value that JSON can express, not {_kind(value)}")


def _kind(value: Any) -> str:
    """The type of a value for an error, which never shows the value: it may be secret."""
    return f"a value of type {type(value).__name__}"
