"""The serving process of multigraft: `api` (HTTP) above `engine` (no HTTP)."""
