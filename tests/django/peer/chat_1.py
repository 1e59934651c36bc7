"""A worker of Django Channels 1 for a chat and a page. A message of one client goes to all clients."""

ROOM = "room"
DISCONNECTS = "disconnects"


class Worker:
    def __init__(self, peer):
        self.peer = peer
        self.handlers = {
            "websocket.connect": self.connect,
            "websocket.receive": self.receive,
            "websocket.disconnect": self.disconnect,
            "http.request": self.page,
        }

    async def run(self):
        while True:
            channel, message = await self.peer.receive_many(list(self.handlers))
            await self.handlers[channel](message)

    async def connect(self, message):
        if message["path"] == "/forbidden":
            await self.peer.call("send", message["reply_channel"], {"close": True})
            return
        await self.peer.call("group_add", ROOM, message["reply_channel"])
        await self.peer.call("send", message["reply_channel"], {"accept": True})

    async def receive(self, message):
        said = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        await self.peer.call("send_group", ROOM, said)

    async def disconnect(self, message):
        await self.peer.call("group_discard", ROOM, message["reply_channel"])
        await self.peer.call("send", DISCONNECTS, {"path": message["path"], "order": message["order"]})

    async def page(self, message):
        asked = f"{message['method']} {message['path']}"
        headers = [[b"content-type", b"text/plain"]]
        answer = {"status": 200, "headers": headers, "content": asked.encode()}
        await self.peer.call("send", message["reply_channel"], answer)
