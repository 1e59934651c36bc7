"""The paths of the page and the WebSocket."""

from django.urls import path
from django.views.generic import TemplateView

from .consumers import ChatConsumer

urlpatterns = [path("", TemplateView.as_view(template_name="chat.html"))]
websocket_urlpatterns = [path("ws/chat/", ChatConsumer.as_asgi())]
