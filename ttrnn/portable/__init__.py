"""Models as source code without dependencies: C and JavaScript."""
