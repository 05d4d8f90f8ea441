"""Inputs that nobody thought of: requests made up from the OpenAPI document, files from examples of files."""
