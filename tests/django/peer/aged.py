"""Tokens of Fernet from a while ago."""

import time


class Aged:
    """Seals as `crypter` did so many seconds ago."""

    def __init__(self, crypter, seconds):
        self.crypter = getattr(crypter, "crypter", crypter)
        self.seconds = seconds

    def encrypt(self, value):
        return self.crypter.encrypt_at_time(value, int(time.time()) - self.seconds)
