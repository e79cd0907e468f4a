"""The `multifd` command. Uses the public API only; nothing below it imports it."""
