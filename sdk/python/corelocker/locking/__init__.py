"""Taking the access key out of an artifact.

Owns which channels are locked (criteria, groups, plan), what stands in their place (fill), which bytes that concerns
(layout) and the writing of locked files and their key bundle (lock). Works on `Artifact`s only, never on a format.
"""
