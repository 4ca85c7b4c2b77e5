"""The command line: one file a verb group; `main` puts them together."""
