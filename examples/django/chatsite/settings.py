"""The minimal settings of the example."""

import os

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only good enough for an example on your own machine")
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

# Daphne must come first to serve `manage.py runserver`.
INSTALLED_APPS = ["daphne", "channels", "chat"]
ASGI_APPLICATION = "chatsite.asgi.application"
ROOT_URLCONF = "chat.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
USE_TZ = True
TIME_ZONE = "UTC"

# With CHANNEL_LAYER_FORMAT=native the site uses the Python package of this project in place of channels_redis.
BACKENDS = {
    "channels_redis": "channels_redis.core.RedisChannelLayer",
    "native": "channel_layer.RedisChannelLayer",
}

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": BACKENDS[os.environ.get("CHANNEL_LAYER_FORMAT", "channels_redis")],
        "CONFIG": {
            "hosts": [
                {
                    "address": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
                    # By default redis-py 8 and later end a read after 5 s, which is as long as the blocking reads of the layer.
                    "socket_timeout": None,
                }
            ]
        },
    }
}
