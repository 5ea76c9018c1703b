"""Attestation: a device proves that it is genuine, runs the genuine app and vouches for its device key.

One module for each format, each a pure function of (evidence, expected challenge, policy, trust anchors, clock):

    android_key.verify_android_key               a key made in the phone's KeyMint, with the chain that describes it
    apple_app_attest.verify_app_attestation      Apple vouches for a key of an app instance, once an install
    apple_app_attest.verify_app_assertion        that key signs a request, with a counter that rises
    development.verify_development               a key under a development root, for emulators, simulators and CI
    device_key.verify_device_key                 the device key answers a challenge, to renew what it was attested for
    play_integrity.verify_play_integrity         Google's verdict as an extra signal beside `android-key`

A verifier never raises for bad evidence: it returns a `Verdict` with one `Reason`. It raises `ConfigError` or
`ValueError` only when its caller's configuration makes no sense. Which environment a service is in is configuration;
nothing here reads it from evidence. What the evidence must sign is
`corelocker.licensing.attested_request`, its form `corelocker.licensing.evidence`; docs/formats.md describes both.
"""
