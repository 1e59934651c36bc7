"""The site of the tests: the chat of the tutorial of Channels. Variables choose its layer."""

import json
import os

SECRET_KEY = "of the tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels", "channel_layer"]
ROOT_URLCONF = "chatsite.urls"
ASGI_APPLICATION = "chatsite.asgi.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": os.environ.get("TEST_BACKEND", "channel_layer.RedisChannelLayer"),
        "CONFIG": json.loads(os.environ.get("TEST_CONFIG", "{}")),
    }
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
