"""Orders on a real exchange's testnet: the port to the venue, and the gateway that never loses nor doubles an order."""
