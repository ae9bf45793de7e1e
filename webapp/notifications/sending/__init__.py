"""Sends one message to one channel: by mail, to a webhook, or through Apprise."""
