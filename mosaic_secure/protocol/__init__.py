"""The protocol: every message that passes between the roles, what it carries, and who may receive it."""
