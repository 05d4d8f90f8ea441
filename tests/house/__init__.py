"""Contract tests of the house: layout, packaging, scripts, image and documentation."""
