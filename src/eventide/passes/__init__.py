"""Passes: from a program to a plan, in the order that `pipeline` lists."""
