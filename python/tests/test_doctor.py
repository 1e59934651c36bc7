"""``python -m channel_layer doctor`` and ``manage.py channel_layer_doctor``."""

import json
import os
import subprocess
import sys

import pytest

from redis_server import free_port
from site_process import HERE

COMMANDS = {
    "module": ["-m", "channel_layer", "doctor"],
    "command of Django": ["-m", "django", "channel_layer_doctor"],
}


@pytest.fixture(params=COMMANDS)
def doctor(request):
    def run(backend, config, *arguments, settings="chatsite.settings"):
        variables = {
            "PYTHONPATH": str(HERE),
            "TEST_BACKEND": backend,
            "TEST_CONFIG": json.dumps(config),
            "DJANGO_SETTINGS_MODULE": settings,
        }
        return subprocess.run(
            [sys.executable, *COMMANDS[request.param], *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | variables,
            cwd=HERE,
        )

    return run


@pytest.mark.parametrize(
    "backend",
    [
        "channel_layer.RedisChannelLayer",
        "channel_layer.ChannelsRedisLayer",
        "channel_layer.PubSubChannelLayer",
        "channels_redis.core.RedisChannelLayer",
        "channels_redis.pubsub.RedisPubSubChannelLayer",
    ],
)
def test_a_site_whose_messages_arrive_is_healthy(doctor, redis, backend):
    report = doctor(backend, {"hosts": [{"address": redis.url, "max_connections": 5}], "capacity": 77})
    assert report.returncode == 0, report.stderr
    for text in ["default", backend.split(".")[-1], str(redis.port), "77", "hosts[0].max_connections has no effect"]:
        assert text in report.stdout


def test_a_server_that_is_away_is_named(doctor):
    port = free_port()
    report = doctor("channel_layer.RedisChannelLayer", {"hosts": [f"redis://:secret@127.0.0.1:{port}"]}, "default")
    assert report.returncode == 1
    output = report.stdout + report.stderr
    assert str(port) in output and "secret" not in output


def test_an_option_that_cannot_be_honoured_is_named(doctor):
    report = doctor("channel_layer.RedisChannelLayer", {"expiry": "soon"})
    assert report.returncode == 1
    assert "expiry" in report.stderr and "Traceback" not in report.stderr


def test_an_unknown_alias_and_a_foreign_layer_are_named(doctor):
    report = doctor("channel_layer.RedisChannelLayer", {}, "other")
    assert report.returncode == 1 and "CHANNEL_LAYERS has no layer other" in report.stderr
    assert "it has default" in report.stderr
    report = doctor("channels.layers.InMemoryChannelLayer", {})
    assert report.returncode == 1
    assert "neither a layer of channel_layer nor one of channels_redis" in report.stdout


def test_settings_that_are_missing_are_named():
    command = [sys.executable, *COMMANDS["module"]]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    report = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert report.returncode == 1 and "DJANGO_SETTINGS_MODULE" in report.stderr and "Traceback" not in report.stderr
    report = subprocess.run([*command, "--settings", "no.such"], capture_output=True, text=True, timeout=60)
    assert report.returncode == 1 and "No module named 'no'" in report.stderr
