"""What every test shares: one hypothesis profile. Fixtures live beside the tests that use them."""

from hypothesis import settings

# A loaded machine is slow now and then; that is no reason to call a property broken.
settings.register_profile("rotor_actors", deadline=None)
settings.load_profile("rotor_actors")
