"""The agent on an MQTT 5 broker: publishes decisions and state, receives signed commands, and shares
headlines with workers.

docs/mqtt.md describes topics and messages for users.
"""
