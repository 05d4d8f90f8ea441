"""Tests of the engine, through EngineLoop and its pure parts."""
