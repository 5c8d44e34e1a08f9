"""The server over stdio: it answers before the SDK is imported, keeps stdout to itself, and ends when it should."""
