"""History files as sources of events: klines, news, sentiment and funding, each stream sorted by availability."""
