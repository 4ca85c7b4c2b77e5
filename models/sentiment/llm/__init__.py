"""Sentiment from language models at servers that speak OpenAI's protocol; no torch, no event loop."""
