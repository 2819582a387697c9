"""The `rollout` command: walks the ladder on evidence, reverts, and keeps what it saw."""
