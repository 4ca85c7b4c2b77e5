"""Orders at a venue: the gateway, which neither loses nor duplicates an order, and the port to Bybit."""
