"""Attestation: a device proves that it is genuine, runs the genuine app and vouches for its device key.

Each format has one module. Its verifier is a pure function of (evidence, expected challenge, policy, trust anchors,
clock):

    android_key.verify_android_key               a key made in the phone's KeyMint, with the chain that describes it
    apple_app_attest.verify_app_attestation      Apple vouches for a key of an app instance, once an install
    apple_app_attest.verify_app_assertion        that key signs a request, with a counter that rises
    development.verify_development               a key under a development root, for emulators, simulators and CI
    device_key.verify_device_key                 the device key answers a challenge, to renew what it was attested for
    play_integrity.verify_play_integrity         Google's verdict as an extra signal beside `android-key`

A verifier never raises for bad evidence. It returns a `Verdict` with one `Reason`. It raises `ConfigError` or
`ValueError` only when its caller's configuration makes no sense. The environment of a service is configuration;
nothing here reads it from evidence. `corelocker.licensing.attested_request` says what the evidence must sign, and
`corelocker.licensing.evidence` what form it has. docs/formats.md describes both.
"""
