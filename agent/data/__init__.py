"""History files as sources of events (klines, news, sentiment, funding), each sorted by availability."""
