from django.urls import path, re_path

from chatsite import consumers, views

urlpatterns = [path("say/<room>/<text>", views.say), path("process", views.process)]
websocket_urlpatterns = [
    re_path(r"ws/chat/(?P<room_name>\w+)/$", consumers.ChatConsumer.as_asgi()),
    re_path(r"ws/sync/(?P<room_name>\w+)/$", consumers.SyncChatConsumer.as_asgi()),
]
