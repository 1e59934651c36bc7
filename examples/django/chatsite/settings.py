"""What the example needs, and no more."""

import os

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only good enough for an example on your own machine")
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

# Daphne first, so that it serves `manage.py runserver`.
INSTALLED_APPS = ["daphne", "channels", "chat"]
ASGI_APPLICATION = "chatsite.asgi.application"
ROOT_URLCONF = "chat.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
USE_TZ = True
TIME_ZONE = "UTC"

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            "hosts": [
                {
                    "address": os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"),
                    # From version 8 on redis-py ends a read that waits for 5 s, which is how long these wait.
                    "socket_timeout": None,
                }
            ]
        },
    }
}
