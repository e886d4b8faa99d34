"""Tests of mmdysample/swap."""
