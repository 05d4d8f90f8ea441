"""Measurements inside the process: what a step costs, and where its time goes. HTTP is measured by `loadtest`."""
