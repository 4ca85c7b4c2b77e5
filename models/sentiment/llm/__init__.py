"""Sentiment from language models at servers with OpenAI's protocol; no torch, no event loop."""
