"""Commands by chat, through a bot of Telegram."""
