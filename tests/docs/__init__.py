"""The documentation: as a site, and its commands run."""
