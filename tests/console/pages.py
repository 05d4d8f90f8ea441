"""The pages that are drawn in every look and checked for barriers: names and paths; `{job}` is the desk's job."""

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
    "upload": "/console/upload",
    "jobs": "/console/jobs",
    "job-new": "/console/jobs/new",
    "job": "/console/jobs/{job}",
    "job-cancel": "/console/jobs/{job}/cancel",
    "playground": "/console/playground?text=Where+is+my+parcel%3F&ref=support-topic%401&ref=support-topic%402",
    "keys": "/console/keys",
    "key-new": "/console/keys/new",
}
