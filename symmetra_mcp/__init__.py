"""symmetra-mcp keeps a team's rules and hands an AI coding assistant the few that matter."""

__version__ = "0.1.0"
