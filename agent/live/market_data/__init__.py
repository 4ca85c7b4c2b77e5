"""Live klines of Bybit v5: a WebSocket stream, completed by REST where it was not heard."""
