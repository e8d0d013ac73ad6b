"""One module a stage, one function a module; each reads top to bottom."""
