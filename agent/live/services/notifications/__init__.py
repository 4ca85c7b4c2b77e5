"""Notifications: what happened, in words, to wherever a person reads them."""
