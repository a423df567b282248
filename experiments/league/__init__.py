"""The league table: all methods at one storage budget, in equal time, under one recipe."""
