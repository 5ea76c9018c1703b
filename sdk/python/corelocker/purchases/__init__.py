"""Proofs that the user may use a tier, from three providers, and the rules of what they entitle to.

`app_store` verifies what Apple has signed. `google_play` asks Google. `grant` verifies what the publisher's own
backend has signed. Each gives a `Purchase`. `entitlements` decides what a purchase unlocks, and on how many device
keys.
"""
