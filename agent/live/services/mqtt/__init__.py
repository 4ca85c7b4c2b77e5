"""The agent on an MQTT 5 broker: what it decides and how it is goes out, signed commands come in, headlines are shared out to workers.

docs/mqtt.md describes topics and messages for those who read them.
"""
