"""The pages that are drawn in every look, and checked for barriers: a name, and the path."""

from __future__ import annotations

PAGES = {
    "overview": "/console/overview",
    "tasks": "/console/tasks",
    "task": "/console/tasks/support-topic",
    "version": "/console/tasks/support-topic/versions/2",
    "diff": "/console/tasks/support-topic/diff?a=1&b=2",
    "promote": "/console/tasks/support-topic/promote?version=2",
    "split": "/console/tasks/support-topic/split",
    "rollback": "/console/tasks/support-topic/rollback",
    "retire": "/console/tasks/support-topic/versions/3/retire",
    "events": "/console/events",
}
