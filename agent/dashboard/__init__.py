"""The dashboard: a web page that monitors and controls the running agent and replays recorded runs."""
