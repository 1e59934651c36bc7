import os

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")
pages = get_asgi_application()

from chatsite import consumers, urls  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": URLRouter(urls.websocket_urlpatterns),
        "channel": ChannelNameRouter({"jobs": consumers.Jobs.as_asgi()}),
    }
)
