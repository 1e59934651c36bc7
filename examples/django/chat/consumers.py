"""The consumer of the chat. A Rust worker counts the words of its messages."""

from channels.generic.websocket import AsyncJsonWebsocketConsumer

GROUP = "chat"
# The channel that the worker reads.
WORDS_COUNT = "words.count"


class ChatConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(GROUP, self.channel_name)

    async def receive_json(self, content):
        text = content["text"]
        await self.channel_layer.group_send(GROUP, {"type": "chat.message", "text": text})
        await self.channel_layer.send(WORDS_COUNT, {"text": text, "reply_channel": self.channel_name})

    async def chat_message(self, message):
        """Handles a message to the group, from a consumer, the worker or another program."""
        await self.send_json({"text": message["text"]})

    async def words_counted(self, message):
        """Handles the reply of the worker."""
        await self.send_json({"words": message["words"]})
