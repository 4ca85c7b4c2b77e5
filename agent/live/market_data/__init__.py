"""Live klines of Bybit v5: WebSocket streams, completed from the REST history."""
