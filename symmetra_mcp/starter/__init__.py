"""The rules that symmetra-mcp brings along, and their vectors."""

from symmetra_mcp.starter.install import install_starter_rules, starter_rules_installed

__all__ = ["install_starter_rules", "starter_rules_installed"]
