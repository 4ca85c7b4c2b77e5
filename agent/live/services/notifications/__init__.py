"""Notifications of what happens, by Telegram, e-mail and other services."""
