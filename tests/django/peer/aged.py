"""Fernet tokens with an earlier time."""

import time


class Aged:
    """Encrypts as `crypter`, with a time `seconds` ago."""

    def __init__(self, crypter, seconds):
        self.crypter = getattr(crypter, "crypter", crypter)
        self.seconds = seconds

    def encrypt(self, value):
        return self.crypter.encrypt_at_time(value, int(time.time()) - self.seconds)
