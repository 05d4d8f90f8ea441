"""The pages that are drawn in every look, and checked for barriers: a name, and the path."""

from __future__ import annotations

PAGES = {
    "overview": "/console/overview",
    "tasks": "/console/tasks",
}
