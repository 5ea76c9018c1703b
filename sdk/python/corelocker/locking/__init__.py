"""Taking the access key out of an artifact.

`criteria`, `groups` and `plan` say which channels are locked. `fill` says what stands in their place. `layout` says
which bytes that concerns. `lock` writes the locked files and their key bundle. The package works on `Artifact`s only,
never on a format.
"""
