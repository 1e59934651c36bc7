"""The site of the documentation: runs the Python snippets of README and docs, with the server of REDIS_URL.

A snippet in a list is not run: it shows a change of one line, or another layer.
"""

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
snippet = re.compile("^```python\n(.*?)```", re.DOTALL | re.MULTILINE)
snippets = [found for page in pages for found in snippet.findall(page.read_text())]
source = "\n".join(snippets)
if source.count(ADDRESS) != 1:
    raise SystemExit(f"{ADDRESS} must occur once in the snippets, and occurs {source.count(ADDRESS)} times")

site = {"AsyncJsonWebsocketConsumer": AsyncJsonWebsocketConsumer}
exec(source.replace(ADDRESS, os.environ["REDIS_URL"]), site)

settings.configure(CHANNEL_LAYERS=site["CHANNEL_LAYERS"], SECRET_KEY="of a test")
django.setup()
application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/chat/", site["ChatConsumer"].as_asgi())])})
