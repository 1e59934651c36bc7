"""The site of the documentation: runs all Python snippets of README and docs, with the server of REDIS_URL."""

import os
import pathlib
import re

import django
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

ROOT = pathlib.Path(__file__).parents[3]
ADDRESS = "redis://127.0.0.1:6379"

pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
snippets = [snippet for page in pages for snippet in re.findall("```python\n(.*?)```", page.read_text(), re.DOTALL)]
source = "\n".join(snippets)
if source.count(ADDRESS) != 1:
    raise SystemExit(f"{ADDRESS} must occur once in the snippets, and occurs {source.count(ADDRESS)} times")

site = {"AsyncJsonWebsocketConsumer": AsyncJsonWebsocketConsumer}
exec(source.replace(ADDRESS, os.environ["REDIS_URL"]), site)

settings.configure(CHANNEL_LAYERS=site["CHANNEL_LAYERS"], SECRET_KEY="of a test")
django.setup()
application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/chat/", site["ChatConsumer"].as_asgi())])})
