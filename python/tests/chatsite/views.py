import os

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpResponse


def say(request, room, text):
    """A synchronous view that sends to the group of a room."""
    async_to_sync(get_channel_layer().group_send)(f"chat_{room}", {"type": "chat.message", "message": text})
    return HttpResponse("said")


async def process(request):
    return HttpResponse(str(os.getpid()))
