"""The channels: what each makes of a push."""
