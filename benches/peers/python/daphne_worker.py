"""The loop of a worker on asgi_redis 1.4.3: accepts every socket and echoes its messages."""

from daphne_layer import channel_layer

CHANNELS = ["websocket.connect", "websocket.receive", "websocket.disconnect"]

while True:
    channel, message = channel_layer.receive(CHANNELS, block=True)
    if channel == "websocket.connect":
        channel_layer.send(message["reply_channel"], {"accept": True})
    elif channel == "websocket.receive":
        channel_layer.send(message["reply_channel"], {"text": message["text"]})
